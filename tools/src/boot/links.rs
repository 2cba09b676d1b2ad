//! The machine's network: each interface that is configured, or each there is, brought up when it appears, and looked
//! after while the machine runs.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use super::board::Board;
use super::dhcp;
use super::modules::Modules;
use super::net::{Interface, has_carrier, interfaces};
use crate::config::machine::{Link, Machine};
use crate::fail::Result;

/// The network.
#[derive(Debug)]
pub struct Links {
    links: Vec<Link>,
    hostname: Option<String>,
    board: Board,
    /// By interface, with its number: one that was away and is back has another.
    done: BTreeMap<(String, u32), How>,
}

/// How an interface has its addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    Fixed,
    Dhcp,
}

impl Links {
    /// What the configuration says of it.
    pub fn of(machine: &Machine, board: Board) -> Links {
        Links {
            links: machine.link.clone(),
            hostname: machine.hostname.clone(),
            board,
            done: BTreeMap::new(),
        }
    }

    /// True if all that is configured is there, or anything at all if nothing is.
    pub fn are_there(&self) -> bool {
        let there = interfaces();
        let has = |link: &Link| there.iter().any(|found| is(link, found));
        match self.links.is_empty() {
            true => !there.is_empty(),
            false => self.links.iter().all(has),
        }
    }

    /// Brings up what is there and was not, and says what is missing.
    pub fn tend(&mut self, modules: &Modules) {
        let there = interfaces();
        let is_there = |known: &(String, u32)| {
            there
                .iter()
                .any(|found| (&found.name, found.index) == (&known.0, known.1))
        };
        self.done.retain(|known, _| is_there(known));
        let links = match self.links.is_empty() {
            true => there.iter().map(by_dhcp).collect(),
            false => self.links.clone(),
        };
        if links.is_empty() {
            self.board.miss(
                "the network",
                "there is no Ethernet interface, or no driver for it",
            );
        } else if self.links.is_empty() {
            self.board.forget("the network");
        }
        for link in links {
            let Some(interface) = there.iter().find(|found| is(&link, found)) else {
                self.board
                    .miss(&link.label(), "there is no such network interface");
                continue;
            };
            self.look_after(&link, interface, modules);
        }
    }

    fn look_after(&mut self, link: &Link, interface: &Interface, modules: &Modules) {
        let key = (interface.name.clone(), interface.index);
        match self.done.get(&key) {
            // Its own thread looks after it.
            Some(How::Dhcp) => return,
            Some(How::Fixed) => (),
            None => {
                let how = self.bring_up(link, interface, modules);
                match how {
                    Ok(how) => _ = self.done.insert(key, how),
                    Err(why) => return self.board.miss(&link.label(), &why.0),
                }
                if how == Ok(How::Dhcp) {
                    return;
                }
            }
        }
        match has_carrier(&interface.name) {
            true => self
                .board
                .found_if_missed(&link.label(), || match &link.address[..] {
                    [] => "is up".into(),
                    [first, ..] => format!("is up with {first}"),
                }),
            false => self
                .board
                .miss(&link.label(), "it has no carrier: is a cable plugged in?"),
        }
    }

    fn bring_up(&self, link: &Link, interface: &Interface, modules: &Modules) -> Result<How> {
        interface.up(link.mtu)?;
        for address in &link.address {
            interface.add_address(*address)?;
        }
        if let Some(gateway) = link.gateway {
            interface.default_route(gateway)?;
        }
        if link.rxe {
            // It looks for an algorithm that nothing else asks for.
            let _ = modules.load("crc32_generic");
            modules.load("rdma_rxe")?;
            interface.add_rxe()?;
            // One by DHCP comes later, and so does the node's listener there.
            if !link.address.is_empty() {
                wait_for_address(&interface.name);
            }
        }
        if !link.address.is_empty() {
            log::info!("{}: has {} addresses", interface.name, link.address.len());
            return Ok(How::Fixed);
        }
        dhcp::keep(interface.clone(), self.hostname.clone(), self.board.clone())?;
        Ok(How::Dhcp)
    }
}

fn is(link: &Link, interface: &Interface) -> bool {
    link.name.as_ref() == Some(&interface.name) || link.mac == Some(interface.mac)
}

fn by_dhcp(interface: &Interface) -> Link {
    Link {
        name: Some(interface.name.clone()),
        ..Link::default()
    }
}

/// An RDMA device knows its interface's addresses about a second after that; a node that starts before does not find it.
fn wait_for_address(interface: &str) {
    for _ in 0..15 {
        let known = (0..8).any(|index| {
            let file = format!("/sys/class/infiniband/rxe_{interface}/ports/1/gids/{index}");
            // An IPv4 address as IPv6 writes it.
            fs::read_to_string(file).is_ok_and(|gid| gid.contains(":0000:ffff:"))
        });
        if known {
            return;
        }
        thread::sleep(Duration::from_millis(200));
    }
}
