//! What a node says to the manager of services that started it, be it systemd or our own first process: sd_notify(3).
//! Without one, all of this does nothing.

use std::sync::Arc;

use sd_notify::NotifyState;

use crate::ctl::protocol::Node as View;
use crate::node::{Handle, Node};

/// The one that started us, if any.
#[derive(Clone, Debug)]
pub struct Manager {
    handle: Arc<Handle>,
}

impl Manager {
    /// To be told of this node.
    pub fn of(node: &Node) -> Manager {
        Manager {
            handle: node.handle().clone(),
        }
    }

    /// Hosts may connect.
    pub fn ready(&self) {
        notify(&[NotifyState::Ready, NotifyState::Status(&self.status())]);
    }

    /// It is as it says now.
    pub fn tell_status(&self) {
        notify(&[NotifyState::Status(&self.status())]);
    }

    /// The configuration is being read again.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(_) => notify(&[NotifyState::Reloading]),
        }
    }

    /// It ends.
    pub fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }

    fn status(&self) -> String {
        self.handle
            .view()
            .map_or_else(|why| why.0, |view| status(&view))
    }
}

/// In one line.
fn status(view: &View) -> String {
    let count = view.subsystems.iter().map(|s| s.namespaces.len()).sum();
    let namespaces = match count {
        1 => "1 namespace".to_owned(),
        count => format!("{count} namespaces"),
    };
    let at = match view.listen.is_empty() {
        true => "nowhere".into(),
        false => view.listen.join(", "),
    };
    let missing = match view.missing.is_empty() {
        true => String::new(),
        false => format!("; missing: {}", view.missing.join("; ")),
    };
    format!("serves {namespaces} at {at}{missing}").replace('\n', " ")
}

fn notify(states: &[NotifyState]) {
    if let Err(cause) = sd_notify::notify(states) {
        log::warn!("cannot tell the manager of services: {cause}");
    }
}
