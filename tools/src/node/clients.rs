//! The node's end of the control socket: a thread for each `ferroce ctl` that asks, few at a time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::Handle;
use crate::ctl::protocol::{LINE_MAX, Response};
use crate::ctl::socket::Socket;
use crate::fail::{Context, Result};

/// Who asks says so at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clients at a time; more wait in the listener's queue.
const CLIENTS_MAX: usize = 16;

/// Answers for as long as the process lives.
pub fn answer(socket: &Socket, handle: Arc<Handle>) -> Result<()> {
    socket
        .listener
        .set_nonblocking(false)
        .context(|| "the control socket")?;
    let listener = socket
        .listener
        .try_clone()
        .context(|| "the control socket")?;
    let places = Arc::new(());
    let serve = move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // Out of descriptors, most likely: asking again at once would spin.
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            while Arc::strong_count(&places) > CLIENTS_MAX {
                thread::sleep(Duration::from_millis(10));
            }
            let (handle, place) = (handle.clone(), places.clone());
            let client = move || {
                if let Err(cause) = serve_client(&stream, &handle) {
                    log::debug!("ctl: {cause}");
                }
                drop(place);
            };
            // Without a thread the client sees the connection end.
            let _ = thread::Builder::new()
                .name("ctl client".into())
                .spawn(client);
        }
    };
    thread::Builder::new()
        .name("ctl".into())
        .spawn(serve)
        .context(|| "cannot start a thread")?;
    Ok(())
}

fn serve_client(mut stream: &UnixStream, handle: &Handle) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE_MAX as u64)).read_line(&mut line)?;
    if line.is_empty() {
        return Ok(()); // Someone looked whether we are here.
    }
    let response = match serde_json::from_str(&line) {
        Ok(request) => handle.respond(&request),
        Err(cause) => Response::Failed(format!(
            "the node does not understand the request (another version?): {cause}"
        )),
    };
    let mut answer = serde_json::to_string(&response)?;
    answer.push('\n');
    stream.write_all(answer.as_bytes())
}
