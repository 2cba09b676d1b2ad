//! As much of an HTTP/1.1 server as a scrape needs: GET and HEAD, one request per connection, one thread for
//! all (RFC 9112). Made for clients that are slow or mean no good: connections, time, request size
//! and the work of making pages are bounded, and when there are too many, the oldest goes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::fail::{Context, Result};
use crate::wait::Bed;

/// Connections at a time.
const CLIENTS_MAX: usize = 16;
/// Connections accepted before those that are there get their turn.
const ACCEPTS: usize = 16;
/// From its first byte to its last, a connection may take so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest request.
const REQUEST_MAX: usize = 8192;
/// Header fields of a request.
const FIELDS_MAX: usize = 64;
/// A page is made at most once in this time.
const FRESH: Duration = Duration::from_millis(100);
/// After its answer a client may say so much more before it is cut off, in bytes.
const CHATTER_MAX: usize = 64 * 1024;
/// While a client takes nothing, or no more can be accepted, it is tried again so soon.
const RETRY: Duration = Duration::from_millis(10);

/// Media type and body.
pub type Page = (&'static str, String);

/// Answers with `pages`, by path, for as long as the process lives.
pub fn serve(
    listener: TcpListener,
    pages: impl Fn(&str) -> Option<Page> + Send + 'static,
) -> Result<()> {
    let what = || "cannot serve metrics";
    let bed = Bed::new().context(what)?;
    bed.watch(listener.as_fd()).context(what)?;
    let server = Server {
        listener,
        bed,
        clients: Vec::new(),
        press: Press {
            pages,
            printed: Vec::new(),
        },
    };
    thread::Builder::new()
        .name("metrics".into())
        .spawn(move || server.run())
        .context(what)?;
    Ok(())
}

struct Server<P> {
    listener: TcpListener,
    bed: Bed,
    /// Oldest first.
    clients: Vec<Client>,
    press: Press<P>,
}

struct Client {
    stream: TcpStream,
    since: Instant,
    stage: Stage,
}

enum Stage {
    /// Of the request, this is there.
    Asking(Vec<u8>),
    /// Of the answer, so much was sent.
    Answering(Answer, usize),
    /// All was sent. What the client still says is thrown away until it hangs up: who closes with
    /// bytes unread resets the connection, and the reset overtakes the answer. It said so much.
    Lingering(usize),
}

#[derive(Clone)]
struct Answer {
    head: Arc<str>,
    body: Arc<str>,
}

impl<P: Fn(&str) -> Option<Page>> Server<P> {
    fn run(mut self) {
        loop {
            let now = Instant::now();
            let due = |client: &Client| PATIENCE.saturating_sub(now - client.since);
            let mut limit = self.clients.iter().map(due).min();
            if self.clients.iter().any(Client::is_answering) {
                limit = Some(RETRY);
            }
            self.bed.sleep(limit, || true);
            self.accept();
            let now = Instant::now();
            let (bed, press) = (&self.bed, &mut self.press);
            self.clients.retain_mut(|client| {
                now - client.since < PATIENCE && client.go_on(bed, press).unwrap_or(false)
            });
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => return,
                Err(cause) if cause.kind() == ErrorKind::ConnectionAborted => continue,
                Err(_) => {
                    // Out of descriptors, most likely: asking again at once would spin.
                    thread::sleep(RETRY);
                    return;
                }
            };
            if stream.set_nonblocking(true).is_err() || self.bed.watch(stream.as_fd()).is_err() {
                continue;
            }
            if self.clients.len() == CLIENTS_MAX {
                self.clients.remove(0);
            }
            self.clients.push(Client {
                stream,
                since: Instant::now(),
                stage: Stage::Asking(Vec::new()),
            });
        }
    }
}

impl Client {
    fn is_answering(&self) -> bool {
        matches!(self.stage, Stage::Answering(..))
    }

    /// Does what can be done without waiting; false when the connection is over.
    fn go_on<P: Fn(&str) -> Option<Page>>(
        &mut self,
        bed: &Bed,
        press: &mut Press<P>,
    ) -> io::Result<bool> {
        loop {
            match &mut self.stage {
                Stage::Asking(request) => {
                    let mut bytes = [0; 1024];
                    let Some(count) = ready(self.stream.read(&mut bytes))? else {
                        return Ok(true);
                    };
                    if count == 0 {
                        return Ok(false);
                    }
                    request.extend_from_slice(&bytes[..count]);
                    if let Some(answer) = press.answer(request) {
                        // What it says from now on is not looked at, and must not wake us.
                        bed.unwatch(self.stream.as_fd());
                        self.stage = Stage::Answering(answer, 0);
                    }
                }
                Stage::Answering(Answer { head, body }, sent) => {
                    let left = match head.as_bytes().get(*sent..) {
                        Some(head) if !head.is_empty() => head,
                        _ => &body.as_bytes()[*sent - head.len()..],
                    };
                    if left.is_empty() {
                        self.stream.shutdown(Shutdown::Write)?;
                        bed.watch(self.stream.as_fd())?;
                        self.stage = Stage::Lingering(0);
                        continue;
                    }
                    match ready(self.stream.write(left))? {
                        Some(count) => *sent += count,
                        None => return Ok(true),
                    }
                }
                Stage::Lingering(said) => {
                    let Some(count) = ready(self.stream.read(&mut [0; 4096]))? else {
                        return Ok(true);
                    };
                    *said += count;
                    if count == 0 || *said > CHATTER_MAX {
                        return Ok(false);
                    }
                }
            }
        }
    }
}

/// `None` if it would have to wait.
fn ready(done: io::Result<usize>) -> io::Result<Option<usize>> {
    match done {
        Ok(count) => Ok(Some(count)),
        Err(cause) if cause.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(cause) if cause.kind() == ErrorKind::Interrupted => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// Makes pages, each at most once in [`FRESH`]: who asks all the time gets the same one.
struct Press<P> {
    pages: P,
    printed: Vec<(String, Instant, Answer)>,
}

impl<P: Fn(&str) -> Option<Page>> Press<P> {
    /// The answer to a request, once that is whole or wrong.
    fn answer(&mut self, request: &[u8]) -> Option<Answer> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut fields);
        let error = |status: &str| Some(Answer::new(status, "text/plain", format!("{status}\n")));
        match parsed.parse(request) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) if request.len() < REQUEST_MAX => return None,
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return error("431 Request Header Fields Too Large");
            }
            Err(_) => return error("400 Bad Request"),
        }
        let is_head = parsed.method == Some("HEAD");
        if !is_head && parsed.method != Some("GET") {
            return error("405 Method Not Allowed");
        }
        let target = parsed.path.unwrap_or_default();
        // Proxies may ask with the whole URL (RFC 9112, 3.2.2).
        let path = match target.strip_prefix("http://") {
            Some(rest) => &rest[rest.find('/').unwrap_or(rest.len())..],
            None => target,
        };
        let path = path.split('?').next().unwrap_or_default();
        let mut answer = self.page(path).or_else(|| error("404 Not Found"))?;
        if is_head {
            answer.body = "".into();
        }
        Some(answer)
    }

    fn page(&mut self, path: &str) -> Option<Answer> {
        self.printed.retain(|(_, at, _)| at.elapsed() < FRESH);
        if let Some((_, _, answer)) = self.printed.iter().find(|(known, ..)| known == path) {
            return Some(answer.clone());
        }
        let (media, body) = (self.pages)(path)?;
        let answer = Answer::new("200 OK", media, body);
        self.printed
            .push((path.into(), Instant::now(), answer.clone()));
        Some(answer)
    }
}

impl Answer {
    fn new(status: &str, media: &str, body: String) -> Answer {
        // A refused method has to be told which are not (RFC 9110, 15.5.6).
        let allow = match status.starts_with("405") {
            true => "Allow: GET, HEAD\r\n",
            false => "",
        };
        let head = format!(
            "HTTP/1.1 {status}\r\n{allow}Content-Type: {media}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        Answer {
            head: head.into(),
            body: body.into(),
        }
    }
}
