//! What a patient node was to have and has not: drives and addresses that were not there when it started. It looks for
//! them until they come, as long as the configuration file names them.

use std::net::UdpSocket;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use ferroce_engine::table::Transport;

use super::Handle;
use crate::config::Namespace;
use crate::ctl::protocol::Order;
use crate::fail::{Context, Fail, Result};
use crate::url::Url;

/// It looks so often.
const LOOK: Duration = Duration::from_secs(2);

/// What is not there.
#[derive(Clone, PartialEq, Debug)]
pub enum What {
    /// The drive of a namespace of this subsystem.
    Drive(String, Box<Namespace>),
    /// An address for TCP.
    Address(Url),
    /// An address for RDMA, which cores can only have from their start.
    Rdma {
        /// Where.
        url: Url,
        /// This machine has the address, so that something else must be missing, which does not come by itself.
        here: bool,
    },
}

/// With why it is not there.
#[derive(Debug, Default)]
pub struct Wanted {
    /// The node waits for what is not there, instead of doing without.
    patient: bool,
    list: Mutex<Vec<(What, String)>>,
    /// The list is not empty any more.
    missing: Condvar,
}

/// What came of looking.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// Something was found; this is what it is.
    Found(String),
    /// Something was found that a node can only have from its start.
    Restart(String),
}

impl Wanted {
    /// Of a patient node.
    pub fn patiently() -> Wanted {
        Wanted {
            patient: true,
            ..Wanted::default()
        }
    }

    /// The node waits for what is not there.
    pub fn is_patient(&self) -> bool {
        self.patient
    }

    /// Remembers what is not there, and says so; once.
    pub fn miss(&self, what: What, Fail(why): Fail) {
        let mut list = self.list();
        if list.iter().all(|(known, _)| *known != what) {
            log::warn!("{}, and goes on without: {why}", what.line());
            list.push((what, why));
            self.missing.notify_one();
        }
    }

    /// Goes on looking for these only.
    pub fn keep(&self, mut named: impl FnMut(&What) -> bool) {
        self.list().retain(|(what, _)| named(what));
    }

    /// A line for each.
    pub fn lines(&self) -> Vec<String> {
        let line = |(what, why): &(What, String)| format!("{}: {why}", what.name());
        self.list().iter().map(line).collect()
    }

    /// All that is missing, once something is.
    fn some(&self) -> Vec<What> {
        let list = self.missing.wait_while(self.list(), |list| list.is_empty());
        let list = list.unwrap_or_else(PoisonError::into_inner);
        list.iter().map(|(what, _)| what.clone()).collect()
    }

    /// Looks for it, unless nobody wants it any more.
    fn look(&self, what: &What, found: impl FnOnce() -> Result<Option<News>>) -> Option<News> {
        let at = |list: &[(What, String)]| list.iter().position(|(known, _)| known == what);
        at(&self.list())?;
        let found = found();
        let mut list = self.list();
        let at = at(&list)?;
        match found {
            Ok(Some(news)) => {
                list.remove(at);
                Some(news)
            }
            Ok(None) => None,
            Err(Fail(why)) => {
                list[at].1 = why;
                None
            }
        }
    }

    fn list(&self) -> MutexGuard<'_, Vec<(What, String)>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl What {
    fn name(&self) -> String {
        match self {
            What::Drive(nqn, namespace) => {
                let nsid = namespace.nsid.map_or("?".into(), |nsid| nsid.to_string());
                format!("{}, namespace {nsid} of {nqn}", namespace.device.text)
            }
            What::Address(url) | What::Rdma { url, .. } => url.to_string(),
        }
    }

    fn line(&self) -> String {
        match self {
            What::Drive(..) => format!("the node does not have {}", self.name()),
            What::Address(_) | What::Rdma { .. } => {
                format!("the node does not listen at {}", self.name())
            }
        }
    }
}

/// Looks for what a patient node misses: for drives from a thread, and from another one for addresses, which do not wait for
/// a drive that takes its time.
pub fn look(handle: &Arc<Handle>, tell: impl Fn(News) + Send + Sync + 'static) -> Result<()> {
    if !handle.wanted().is_patient() {
        return Ok(());
    }
    let tell = Arc::new(tell);
    for drives in [true, false] {
        let (handle, tell) = (handle.clone(), tell.clone());
        let look = move || {
            loop {
                let missing = handle.wanted().some();
                thread::sleep(LOOK);
                let mine = |what: &What| matches!(what, What::Drive(..)) == drives;
                for what in missing.into_iter().filter(mine) {
                    // A file that is read again may name it no more.
                    let one_at_a_time = match drives {
                        true => handle.changing_drives(),
                        false => handle.changing_access(),
                    };
                    let news = handle.wanted().look(&what, || found(&handle, &what));
                    drop(one_at_a_time);
                    if let Some(news) = news {
                        log::info!("{}", news.text());
                        tell(news);
                    }
                }
            }
        };
        thread::Builder::new()
            .name("patience".into())
            .spawn(look)
            .context(|| "cannot start a thread")?;
    }
    Ok(())
}

impl News {
    fn text(&self) -> &str {
        match self {
            News::Found(text) | News::Restart(text) => text,
        }
    }
}

fn found(handle: &Handle, what: &What) -> Result<Option<News>> {
    match what {
        What::Drive(nqn, namespace) => {
            let nsid = handle.add(nqn, namespace)?;
            let device = &namespace.device.text;
            Ok(Some(News::Found(format!(
                "{device} is there: namespace {nsid} of {nqn}"
            ))))
        }
        What::Address(url) => {
            let url = url.to_string();
            handle.execute(&Order::Listen { url: url.clone() }, None)?;
            Ok(Some(News::Found(format!("{url} is there"))))
        }
        What::Rdma { url, here } => {
            let why = || format!("the address of {url} is there, for which the node starts again");
            Ok((!here && is_here(url)).then(|| News::Restart(why())))
        }
    }
}

/// True if the address is one of this machine's.
pub fn is_here(url: &Url) -> bool {
    look_here(url).is_ok()
}

fn look_here(url: &Url) -> Result<()> {
    let address = url.resolve_listener()?;
    // Any socket does: whether the address is there does not depend on the port.
    UdpSocket::bind((address.ip(), 0))
        .map(drop)
        .map_err(|_| Fail("no interface of this machine has this address".into()))
}

/// Those of the addresses that this node can have now; the others are remembered if they are for RDMA. (TCP can be
/// listened at later.)
pub fn usable(urls: &[Url], wanted: &Wanted) -> Vec<Url> {
    let usable = |url: &&Url| {
        if url.scheme.transport() == Transport::Tcp {
            return true;
        }
        look_here(url)
            .map_err(|why| {
                let url = (*url).clone();
                wanted.miss(What::Rdma { url, here: false }, why);
            })
            .is_ok()
    };
    urls.iter().filter(usable).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_missed_for_the_reason_that_it_has() {
        let urls = [
            "tcp://192.0.2.1:4420",
            "roce://127.0.0.1:4420",
            "roce://192.0.2.1:4420",
            // Why it stands for no address is said, not that no interface has it.
            "verbs://127.0.0.1:4420/nqn.2024-01.org.example:a",
        ];
        let urls = urls.map(|url| url.parse::<Url>().expect("a URL"));
        let wanted = Wanted::patiently();
        assert_eq!(usable(&urls, &wanted), urls[..2]);
        let lines = wanted.lines();
        assert!(
            lines[0].contains("no interface of this machine"),
            "{lines:?}"
        );
        assert!(lines[1].contains("leave the NQN out"), "{lines:?}");
    }
}
