//! What a patient node was to have and has not: drives and addresses that were not there when it started. It looks for
//! them until they come.

use std::net::UdpSocket;
use std::sync::{Arc, Mutex, PoisonError};
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
#[derive(Clone, Debug)]
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
    list: Mutex<Vec<(What, String)>>,
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
    /// Remembers what is not there, and says so.
    pub fn miss(&self, what: What, Fail(why): Fail) {
        log::warn!("{}, and goes on without: {why}", what.line());
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.push((what, why));
    }

    /// A line for each.
    pub fn lines(&self) -> Vec<String> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let line = |(what, why): &(What, String)| format!("{}: {why}", what.name());
        list.iter().map(line).collect()
    }

    fn replace(&self, by: Vec<(What, String)>) {
        *self.list.lock().unwrap_or_else(PoisonError::into_inner) = by;
    }

    fn snapshot(&self) -> Vec<(What, String)> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.clone()
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

/// Looks for what is missing, from a thread of its own that ends when nothing is.
pub fn look(handle: Arc<Handle>, tell: impl Fn(News) + Send + 'static) -> Result<()> {
    if handle.wanted().lines().is_empty() {
        return Ok(());
    }
    let look = move || {
        loop {
            thread::sleep(LOOK);
            let missing = handle.wanted().snapshot();
            if missing.is_empty() {
                return;
            }
            let (mut left, mut all) = (Vec::new(), Vec::new());
            for (what, why) in missing {
                match found(&handle, &what) {
                    Ok(Some(news)) => all.push(news),
                    Ok(None) => left.push((what, why)),
                    Err(Fail(why)) => left.push((what, why)),
                }
            }
            // Before it is told: who hears of it may ask at once.
            handle.wanted().replace(left);
            for news in all {
                log::info!("{}", news.text());
                tell(news);
            }
        }
    };
    thread::Builder::new()
        .name("patience".into())
        .spawn(look)
        .context(|| "cannot start a thread")?;
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
    let _one_at_a_time = handle.changing();
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
        let wanted = Wanted::default();
        assert_eq!(usable(&urls, &wanted), urls[..2]);
        let lines = wanted.lines();
        assert!(
            lines[0].contains("no interface of this machine"),
            "{lines:?}"
        );
        assert!(lines[1].contains("leave the NQN out"), "{lines:?}");
    }
}
