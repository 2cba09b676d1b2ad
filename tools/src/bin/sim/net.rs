//! The network between simulated hosts and the node: links that keep their order, each with its own
//! delays; and [`SimFabric`], the production engine's [`Fabric`] at the node's end of them.
//!
//! Data is read from and written to Bufs late and in pieces, so that a Buf which is given away too early
//! shows as wrong bytes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use ferroce_buf::BufList;
use ferroce_engine::limits;
use ferroce_engine::port::{
    Close, ConnId, Fabric, Fetch, InCapsule, Inbound, Reply, Room, Tag, Tick,
};
use ferroce_engine::table::Transport;
use ferroce_wire::cqe::Cqe;
use ferroce_wire::opcode::AdminOpcode;
use ferroce_wire::sqe::Sqe;
use ferroce_wire::status::Status;

use crate::ether::Medium;
use crate::rdma::Remote;
use crate::shared::{Chance, Common, Event, MS, S, US};

/// Names a link for ever.
pub type LinkId = u32;

/// From a host.
#[derive(Debug)]
pub enum ToTarget {
    Capsule {
        sqe: Sqe,
        data: Vec<u8>,
        spoiled: bool,
    },
    /// A piece of what was asked for.
    Data {
        fetch: u32,
        data: Vec<u8>,
        spoiled: bool,
    },
    Closed,
}

/// To a host.
#[derive(Debug)]
pub enum ToHost {
    /// The transport's handshake is over.
    Up,
    /// A piece of a command's data; with `success`, the last, and instead of a completion.
    Data {
        cid: u16,
        offset: u32,
        data: Vec<u8>,
        success: bool,
    },
    Answer(Cqe),
    /// The target asks for data.
    Ask {
        cid: u16,
        fetch: u32,
        offset: u32,
        len: u32,
    },
    Closed,
}

/// How the network behaves.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Typical one-way delay in ns.
    pub delay: u64,
    /// One piece in so many meets a full socket for a while; 0 is never.
    pub stall: u32,
    /// One fetched or in-capsule payload in so many has a bad digest; 0 is never.
    pub spoil: u32,
    /// Bytes a connection takes before it wants no more.
    pub send_room: usize,
    /// One fetch per command at a time.
    pub one_fetch: bool,
}

/// How exact the node's Keep Alive Timer is, in ns.
const KAS: u64 = limits::KAS as u64 * 100 * MS;

/// A connection between a host and the node.
#[derive(Debug)]
pub struct Link {
    /// Whose: the index of a path.
    pub path: usize,
    /// Where it was dealt to.
    pub core: usize,
    /// Its host's Keep Alive Timeout in ns.
    kato: u64,
    to_target: VecDeque<(u64, ToTarget)>,
    to_host: VecDeque<(u64, ToHost)>,
    due_target: u64,
    due_host: u64,
    /// Nothing more goes this way.
    shut_target: bool,
    shut_host: bool,
    /// The host has vanished: nothing moves, and nobody says so.
    pub silent: bool,
    /// The host does not read what it is sent.
    pub deaf: bool,
    /// Somebody had a reason to end it.
    pub excused: bool,
    /// When it was last left unread, that was for longer than a node bears.
    neglected: bool,
    /// The core has heard of its end, or never will hear of the link.
    pub target_closed: bool,
    /// The host's end, if it is one by RDMA.
    remote: Option<Box<Remote>>,
}

#[derive(Debug)]
pub struct Net {
    common: Common,
    rng: fastrand::Rng,
    pub weather: Weather,
    pub links: Vec<Link>,
    /// What RDMA goes by.
    pub medium: Medium,
}

pub type Wire = Rc<RefCell<Net>>;

impl Link {
    /// The host's end by RDMA is over. One that never stood has carried nothing: the core need not hear of it.
    fn hung_up(&mut self) {
        self.target_closed |= self.remote.as_ref().is_some_and(|remote| !remote.up);
    }
}

impl Net {
    pub fn new(common: Common, rng: fastrand::Rng, weather: Weather, medium: Medium) -> Net {
        Net {
            medium,
            common,
            rng,
            weather,
            links: Vec::new(),
        }
    }

    /// The node has no room for what came first. That is not the host's silence, and the node bears it for as long as
    /// silence itself and once more; a third of a Keep Alive Timeout may have gone by before.
    fn leave_unread(&mut self, id: LinkId) {
        let now = self.common.now();
        let link = self.link(id);
        let borne = (link.kato + KAS) / 2 * 3;
        link.neglected = (link.to_target.front()).is_some_and(|(at, _)| now > at + borne);
    }

    /// A core took a host for silent: one that it did not read for long may be meant.
    pub fn on_expiry(&mut self, core: usize) {
        for link in self.links.iter_mut().filter(|link| link.core == core) {
            link.excused |= link.neglected;
        }
    }

    /// A link that a host has just asked for, whose Keep Alive Timeout is `kato` ns.
    pub fn dial(&mut self, path: usize, core: usize, kato: u64) -> LinkId {
        self.links.push(Link {
            path,
            core,
            kato,
            to_target: VecDeque::new(),
            to_host: VecDeque::new(),
            due_target: 0,
            due_host: 0,
            shut_target: false,
            shut_host: false,
            silent: false,
            deaf: false,
            excused: false,
            neglected: false,
            target_closed: false,
            remote: None,
        });
        self.links.len() as LinkId - 1
    }

    /// A link by RDMA that a host has just asked for, for queue `qid` of so many entries.
    pub fn dial_rdma(&mut self, path: usize, qid: u16, depth: u16) -> LinkId {
        let id = self.dial(path, 0, 0);
        let now = Tick(self.common.now());
        let in_capsule = self.rng.bool();
        let remote = Remote::new(&self.medium, id, (qid, depth), in_capsule, now);
        self.links[id as usize].remote = Some(Box::new(remote));
        self.run(id);
        id
    }

    /// The host's end of a link by RDMA does what there is to do.
    pub fn run(&mut self, id: LinkId) {
        let now = self.common.now();
        let link = &mut self.links[id as usize];
        let Some(remote) = link.remote.as_mut().filter(|_| !link.silent) else {
            return;
        };
        if remote.planned <= now {
            remote.planned = u64::MAX;
        }
        let mut say = Vec::new();
        link.excused |= !remote.run(Tick(now), &mut say);
        if let Some(due) = remote.due(now)
            && due < remote.planned
        {
            remote.planned = due.max(now + 1);
            self.common.at(remote.planned, Event::Packet { link: id });
        }
        self.tell(id, say);
    }

    /// A host's end of a link by RDMA has something to say to its host.
    fn tell(&mut self, id: LinkId, say: Vec<ToHost>) {
        let now = self.common.now();
        let link = &mut self.links[id as usize];
        for message in say {
            if link.shut_host {
                return;
            }
            if let ToHost::Closed = message {
                link.hung_up();
                link.shut_host = true;
            }
            link.to_host.push_back((now, message));
            self.common.at(now, Event::ToHost { link: id });
        }
    }

    fn tell_remote(&mut self, id: LinkId, message: ToTarget) {
        let now = Tick(self.common.now());
        let link = &mut self.links[id as usize];
        if link.silent || link.shut_target {
            return;
        }
        if let ToTarget::Closed = message {
            link.hung_up();
            link.shut_target = true;
        }
        let mut say = Vec::new();
        let remote = link.remote.as_mut().expect("the caller saw it");
        remote.told(message, now, &mut say);
        self.tell(id, say);
        self.run(id);
    }

    pub fn link(&mut self, link: LinkId) -> &mut Link {
        &mut self.links[link as usize]
    }

    fn delay(&mut self) -> u64 {
        let base = self.weather.delay;
        if self.common.calm.get() {
            return self.rng.u64(base / 2..=base);
        }
        match self.rng.u32(0..200) {
            0 => self.rng.u64(base..=base * 100),
            1..=10 => self.rng.u64(base..=base * 10),
            _ => self.rng.u64(base / 2..=base * 2),
        }
    }

    /// A host sends something.
    pub fn send_to_target(&mut self, id: LinkId, message: ToTarget) {
        if self.links[id as usize].remote.is_some() {
            return self.tell_remote(id, message);
        }
        let now = self.common.now();
        let delay = self.delay();
        let link = &mut self.links[id as usize];
        if link.silent || link.shut_target {
            return;
        }
        link.shut_target |= matches!(message, ToTarget::Closed);
        link.due_target = link.due_target.max(now + delay);
        link.to_target.push_back((link.due_target, message));
        self.common.wake_at(link.due_target, link.core);
    }

    fn send_to_host(&mut self, id: LinkId, message: ToHost) {
        let now = self.common.now();
        let delay = self.delay();
        let link = &mut self.links[id as usize];
        if link.silent || link.shut_host {
            return;
        }
        link.shut_host |= matches!(message, ToHost::Closed);
        link.due_host = link.due_host.max(now + delay);
        link.to_host.push_back((link.due_host, message));
        self.common.at(link.due_host, Event::ToHost { link: id });
    }

    /// What has come for a host, once.
    pub fn for_host(&mut self, id: LinkId) -> Option<ToHost> {
        let now = self.common.now();
        let link = &mut self.links[id as usize];
        if link.silent || link.to_host.front()?.0 > now {
            return None;
        }
        Some(link.to_host.pop_front()?.1)
    }

    /// The line is cut: both ends hear of it, each after what still arrives.
    pub fn cut(&mut self, id: LinkId) {
        self.common.note("cut", &[id.into()]);
        if self.links[id as usize].remote.is_some() {
            return self.cut_rdma(id);
        }
        let keep_target = self.rng.bool();
        let keep_host = self.rng.bool();
        let link = &mut self.links[id as usize];
        link.excused = true;
        if link.shut_target && link.shut_host {
            return;
        }
        if !keep_target && !link.shut_target {
            link.to_target.clear();
        }
        if !keep_host && !link.shut_host {
            link.to_host.clear();
        }
        self.send_to_target(id, ToTarget::Closed);
        self.send_to_host(id, ToHost::Closed);
    }

    /// Nothing gets through for a while, which both ends must bear if it is short; or the host's device gives up.
    fn cut_rdma(&mut self, id: LinkId) {
        if self.rng.bool() {
            let dark = self.rng.skewed(MS, 2 * S);
            let is_borne = self.medium.borrow_mut().darken(id, dark);
            self.links[id as usize].excused |= !is_borne;
            return;
        }
        self.links[id as usize].excused = true;
        self.tell_remote(id, ToTarget::Closed);
        self.tell(id, vec![ToHost::Closed]);
    }

    /// The host is gone without a word; the transport notices by itself after a while.
    pub fn vanish(&mut self, id: LinkId) {
        let now = self.common.now();
        let notice = now + self.rng.u64(500 * MS..=8 * S);
        let link = &mut self.links[id as usize];
        if link.silent {
            return;
        }
        link.excused = true;
        link.silent = true;
        link.to_host.clear();
        // Of RDMA, the node notices by what it sends, or by the Keep Alive Timer.
        if link.remote.is_none() && !link.shut_target {
            link.to_target.clear();
            link.shut_target = true;
            link.to_target.push_back((notice, ToTarget::Closed));
            self.common.wake_at(notice, link.core);
        }
    }

    /// The node is dead: nothing of what is on its way to it arrives, and hosts hear of it.
    pub fn node_died(&mut self) {
        for id in 0..self.links.len() as LinkId {
            let link = self.link(id);
            link.target_closed = true;
            if link.remote.is_some() {
                // A request that is under way may yet be the next node's.
                continue;
            }
            link.to_target.clear();
            link.shut_target = true;
            if !link.shut_host {
                self.send_to_host(id, ToHost::Closed);
            }
        }
    }

    /// The next thing for the target, if it has arrived.
    fn arrived(&mut self, id: LinkId) -> Option<&ToTarget> {
        let now = self.common.now();
        let (due, message) = self.links[id as usize].to_target.front()?;
        (*due <= now).then_some(message)
    }

    fn take(&mut self, id: LinkId) -> ToTarget {
        let taken = self.links[id as usize].to_target.pop_front();
        taken.expect("it was looked at").1
    }
}

/// A connection as the node is given it.
#[derive(Clone, Copy, Debug)]
pub struct Incoming {
    pub link: LinkId,
}

/// One core's end of the network.
#[derive(Debug)]
pub struct SimFabric {
    net: Wire,
    common: Common,
    core: usize,
    conns: Vec<Conn>,
    free: Vec<u32>,
    homes: VecDeque<(ConnId, BufList)>,
    /// The capsule reported last, and its in-capsule data.
    sqe: Option<Sqe>,
    current: Vec<u8>,
    /// Where the next look begins, so that all get their turn.
    first: usize,
    next_fetch: u32,
    /// The engine had a place for a command when it was last asked.
    room: bool,
}

/// What [`Inbound`] is made of.
#[derive(Debug)]
enum Ready {
    Opened {
        conn: ConnId,
        link: LinkId,
    },
    Capsule {
        conn: ConnId,
        sqe: Sqe,
        spoiled: bool,
    },
    Fetched {
        conn: ConnId,
        tag: Tag,
        bufs: BufList,
        status: Status,
    },
    Closed {
        conn: ConnId,
    },
}

#[derive(Debug)]
struct Conn {
    generation: u32,
    link: Option<LinkId>,
    opened: bool,
    /// Commands that came and are not answered.
    under_way: u32,
    fetches: VecDeque<Asked>,
    out: VecDeque<Out>,
    out_bytes: usize,
    /// Nothing is sent before.
    send_at: u64,
    closing: bool,
    /// The end was heard of or made; to be reported when all Bufs are home.
    over: bool,
    /// Lists in `homes` that were not taken.
    homes_out: usize,
}

#[derive(Debug)]
struct Asked {
    id: u32,
    fetch: Fetch,
    sent: bool,
    got: usize,
    spoiled: bool,
}

#[derive(Debug)]
struct Out {
    reply: Reply,
    len: usize,
    sent: usize,
}

impl SimFabric {
    pub fn new(net: Wire, common: Common, core: usize) -> SimFabric {
        SimFabric {
            net,
            common,
            core,
            conns: Vec::new(),
            free: Vec::new(),
            homes: VecDeque::new(),
            sqe: None,
            current: Vec::new(),
            first: 0,
            next_fetch: 0,
            room: true,
        }
    }

    /// Every connection ends here and now.
    pub fn kill_all(&mut self) {
        for at in 0..self.conns.len() {
            self.kill(at);
        }
    }

    fn id(&self, at: usize) -> ConnId {
        ConnId {
            slot: at as u32,
            generation: self.conns[at].generation,
        }
    }

    /// The connection of that name, if it still is that one.
    fn find(&self, conn: ConnId) -> Option<usize> {
        let found = self.conns.get(conn.slot as usize)?;
        let same = found.generation == conn.generation && found.link.is_some() && !found.over;
        same.then_some(conn.slot as usize)
    }

    fn send_home(&mut self, conn: ConnId, bufs: BufList) {
        if bufs.is_empty() {
            return;
        }
        if let Some(found) = self.conns.get_mut(conn.slot as usize)
            && found.generation == conn.generation
        {
            found.homes_out += 1;
        }
        self.homes.push_back((conn, bufs));
    }

    /// The connection is over: its Bufs go home, then its end is reported.
    fn kill(&mut self, at: usize) {
        let conn = self.id(at);
        let dead = &mut self.conns[at];
        let Some(link) = dead.link.filter(|_| !dead.over) else {
            return;
        };
        dead.over = true;
        let fetches = std::mem::take(&mut dead.fetches);
        let out = std::mem::take(&mut dead.out);
        for asked in fetches {
            self.send_home(conn, asked.fetch.bufs);
        }
        for out in out {
            self.send_home(conn, out.reply.bufs);
        }
        self.net.borrow_mut().send_to_host(link, ToHost::Closed);
        self.common.wake_at(self.common.now(), self.core);
    }

    /// Sends what can be sent now.
    fn pump(&mut self) {
        for at in 0..self.conns.len() {
            while self.send_piece(at) {}
            let conn = &self.conns[at];
            if conn.closing && conn.out.is_empty() {
                self.kill(at);
            }
        }
    }

    /// Sends a piece of a reply; false if there is none, or it must wait.
    fn send_piece(&mut self, at: usize) -> bool {
        let now = self.common.now();
        let id = self.id(at);
        let conn = &mut self.conns[at];
        let (Some(link), false) = (conn.link, conn.over) else {
            return false;
        };
        let Some(out) = conn.out.front_mut() else {
            return false;
        };
        let mut net = self.net.borrow_mut();
        if net.link(link).silent || net.link(link).deaf {
            return false;
        }
        if conn.send_at > now {
            return false;
        }
        let calm = self.common.calm.get();
        let left = out.len - out.sent;
        let piece = match net.rng.u32(0..4) {
            0 if left > 512 && !calm => net.rng.usize(1..left),
            _ => left,
        };
        if piece > 0 {
            let mut data = vec![0; piece];
            out.reply.bufs.copy_out(out.sent, &mut data);
            let offset = out.reply.offset + out.sent as u32;
            out.sent += piece;
            conn.out_bytes -= piece;
            let whole = out.sent == out.len;
            let success = whole
                && out.reply.last
                && out.reply.cqe.is_some()
                && out.reply.may_elide_cqe
                && net.rng.bool();
            if success {
                let cqe = out.reply.cqe.take().expect("it was just there");
                assert!(
                    cqe.status().is_success(),
                    "only a success may be left unsaid: {cqe:?}"
                );
            }
            let cid = out.reply.cid;
            let message = ToHost::Data {
                cid,
                offset,
                data,
                success,
            };
            net.send_to_host(link, message);
        }
        // Between two pieces time may pass, in which nobody may touch the Bufs.
        let often = net.weather.stall;
        let pause = match often {
            _ if calm => 0,
            0 => net.rng.u64(0..3 * US),
            _ if net.rng.once_in(often * 20) => net.rng.u64(10 * MS..300 * MS),
            _ if net.rng.once_in(often) => net.rng.u64(50 * US..3 * MS),
            _ => net.rng.u64(0..3 * US),
        };
        conn.send_at = now + pause;
        if pause > 0 {
            self.common.wake_at(conn.send_at, self.core);
        }
        if out.sent == out.len {
            let out = conn.out.pop_front().expect("it was just there");
            if let Some(cqe) = out.reply.cqe {
                net.send_to_host(link, ToHost::Answer(cqe));
            }
            drop(net);
            self.send_home(id, out.reply.bufs);
        }
        true
    }

    /// Asks the host for what may be asked for now.
    fn ask(&mut self, at: usize) {
        let mut net = self.net.borrow_mut();
        let one = net.weather.one_fetch;
        let conn = &mut self.conns[at];
        let link = conn.link.expect("it is alive");
        let mut asked: Vec<u16> = Vec::new();
        for waiting in &mut conn.fetches {
            let cid = waiting.fetch.cid;
            if one && asked.contains(&cid) {
                continue;
            }
            asked.push(cid);
            if !waiting.sent {
                waiting.sent = true;
                let message = ToHost::Ask {
                    cid,
                    fetch: waiting.id,
                    offset: waiting.fetch.offset,
                    len: waiting.fetch.bufs.len() as u32,
                };
                net.send_to_host(link, message);
            }
        }
    }

    /// A piece of fetched data arrived; all of it, if it was the last.
    fn land(&mut self, at: usize, id: u32, data: &[u8], spoiled: bool) -> Option<Ready> {
        let conn = self.id(at);
        let fetches = &mut self.conns[at].fetches;
        let place = fetches.iter().position(|asked| asked.id == id);
        let place = place.expect("a host sends what it was asked for");
        let asked = &mut fetches[place];
        asked.fetch.bufs.copy_in(asked.got, data);
        asked.got += data.len();
        asked.spoiled |= spoiled;
        if asked.got < asked.fetch.bufs.len() {
            return None;
        }
        let asked = fetches.remove(place).expect("it was just there");
        self.ask(at);
        Some(Ready::Fetched {
            conn,
            tag: asked.fetch.tag,
            bufs: asked.fetch.bufs,
            status: if asked.spoiled {
                Status::TRANSIENT_TRANSPORT_ERROR
            } else {
                Status::SUCCESS
            },
        })
    }

    /// The next thing of a connection.
    fn next(&mut self, at: usize, room: Room) -> Option<Ready> {
        let conn = self.id(at);
        let link = self.conns[at].link?;
        if self.conns[at].over {
            return self.report_end(at, link);
        }
        if !self.conns[at].opened {
            let mut net = self.net.borrow_mut();
            if let Some(ToTarget::Closed) = net.arrived(link) {
                drop(net);
                self.kill(at);
                return None;
            }
            net.send_to_host(link, ToHost::Up);
            self.conns[at].opened = true;
            return Some(Ready::Opened { conn, link });
        }
        loop {
            let mut net = self.net.borrow_mut();
            let under_way = self.conns[at].under_way;
            let needed = match net.arrived(link)? {
                ToTarget::Capsule { sqe, data, .. } => {
                    // What a Connect carries is looked at, and needs no room.
                    let data = !data.is_empty() && sqe.opc != AdminOpcode::FABRICS.0;
                    Room::of(data, under_way)
                }
                _ => Room::None,
            };
            let closing = self.conns[at].closing;
            if room < needed && !closing {
                net.leave_unread(link);
                return None;
            }
            let message = net.take(link);
            drop(net);
            match message {
                ToTarget::Capsule { sqe, data, spoiled } => {
                    if closing {
                        continue;
                    }
                    let cid = sqe.cid.get().into();
                    self.common
                        .note("capsule", &[link.into(), sqe.opc.into(), cid]);
                    self.conns[at].under_way += 1;
                    self.current = data;
                    return Some(Ready::Capsule { conn, sqe, spoiled });
                }
                ToTarget::Data {
                    fetch,
                    data,
                    spoiled,
                } => {
                    let fetched = self.land(at, fetch, &data, spoiled);
                    if fetched.is_some() {
                        return fetched;
                    }
                }
                ToTarget::Closed => {
                    self.kill(at);
                    return None;
                }
            }
        }
    }

    /// The end of a connection is reported when all its Bufs have been taken home.
    fn report_end(&mut self, at: usize, link: LinkId) -> Option<Ready> {
        let id = self.id(at);
        let conn = &mut self.conns[at];
        if conn.homes_out > 0 {
            return None;
        }
        let opened = conn.opened;
        *conn = Conn::unused(conn.generation + 1);
        self.free.push(at as u32);
        self.net.borrow_mut().link(link).target_closed = true;
        self.common.note("closed", &[link.into()]);
        opened.then_some(Ready::Closed { conn: id })
    }

    /// Something of this connection can be polled.
    fn has_ready(&self, at: usize) -> bool {
        let conn = &self.conns[at];
        let Some(link) = conn.link else {
            return false;
        };
        if conn.over || !conn.opened {
            return true;
        }
        match self.net.borrow_mut().arrived(link) {
            Some(ToTarget::Capsule { .. }) => self.room || conn.closing,
            other => other.is_some(),
        }
    }
}

impl Conn {
    fn unused(generation: u32) -> Conn {
        Conn {
            generation,
            link: None,
            opened: false,
            under_way: 0,
            fetches: VecDeque::new(),
            out: VecDeque::new(),
            out_bytes: 0,
            send_at: 0,
            closing: false,
            over: false,
            homes_out: 0,
        }
    }
}

impl Fabric for SimFabric {
    type Incoming = Incoming;

    fn adopt(&mut self, incoming: Incoming, _now: Tick) {
        let at = self.free.pop().unwrap_or_else(|| {
            self.conns.push(Conn::unused(0));
            self.conns.len() as u32 - 1
        });
        self.common
            .note("adopt", &[incoming.link.into(), self.core as u64]);
        self.conns[at as usize].link = Some(incoming.link);
    }

    fn poll(&mut self, _now: Tick, room: Room) -> Option<Inbound<'_>> {
        self.room = room == Room::Any;
        let count = self.conns.len();
        let ready = (0..count).find_map(|step| {
            let at = (self.first + step) % count;
            let ready = self.next(at, room)?;
            self.first = at + 1;
            Some(ready)
        })?;
        Some(match ready {
            Ready::Opened { conn, link } => Inbound::Opened {
                conn,
                local: SocketAddr::from(([127, 0, 0, 1], 4420)),
                peer: SocketAddr::from(([127, 0, 0, 2], 1024 + (link % 60000) as u16)),
                transport: Transport::Tcp,
            },
            Ready::Capsule {
                conn,
                sqe,
                spoiled: true,
            } => Inbound::Spoiled {
                conn,
                sqe: self.sqe.insert(sqe),
            },
            Ready::Capsule { conn, sqe, .. } => Inbound::Capsule {
                conn,
                sqe: self.sqe.insert(sqe),
                data: InCapsule::Bytes(&self.current),
            },
            Ready::Fetched {
                conn,
                tag,
                bufs,
                status,
            } => Inbound::Fetched {
                conn,
                tag,
                bufs,
                status,
            },
            Ready::Closed { conn } => Inbound::Closed { conn },
        })
    }

    fn fetch(&mut self, conn: ConnId, fetch: Fetch) {
        let Some(at) = self.find(conn) else {
            self.send_home(conn, fetch.bufs);
            return;
        };
        let id = self.next_fetch;
        self.next_fetch += 1;
        assert!(!fetch.bufs.is_empty(), "a fetch has a place to land");
        self.conns[at].fetches.push_back(Asked {
            id,
            fetch,
            sent: false,
            got: 0,
            spoiled: false,
        });
        self.ask(at);
    }

    fn reply(&mut self, conn: ConnId, reply: Reply) {
        let Some(at) = self.find(conn) else {
            self.send_home(conn, reply.bufs);
            return;
        };
        let found = &mut self.conns[at];
        if let Some(cqe) = &reply.cqe {
            found.under_way -= 1;
            assert!(
                cqe.cid.get() == reply.cid,
                "an answer has its command's CID"
            );
            let fetching = found
                .fetches
                .iter()
                .any(|asked| asked.fetch.cid == reply.cid);
            assert!(
                !fetching,
                "cid {} was answered while its data is being fetched",
                reply.cid
            );
        }
        let len = reply.bufs.len();
        found.out_bytes += len;
        found.out.push_back(Out {
            reply,
            len,
            sent: 0,
        });
    }

    fn wants_more(&self, conn: ConnId) -> bool {
        let Some(at) = self.find(conn) else {
            return true;
        };
        let found = &self.conns[at];
        let room = self.net.borrow().weather.send_room;
        found.out_bytes < room && found.out.len() < 64
    }

    fn close(&mut self, conn: ConnId, how: Close) {
        let Some(at) = self.find(conn) else {
            return;
        };
        match how {
            Close::Now => self.kill(at),
            Close::Sent => self.conns[at].closing = true,
        }
    }

    fn home(&mut self) -> Option<BufList> {
        let (conn, bufs) = self.homes.pop_front()?;
        if let Some(found) = self.conns.get_mut(conn.slot as usize)
            && found.generation == conn.generation
        {
            found.homes_out -= 1;
        }
        Some(bufs)
    }

    fn flush(&mut self, _now: Tick) {
        self.pump();
    }

    fn next_timeout(&self) -> Option<Tick> {
        None
    }

    fn has_work(&self) -> bool {
        !self.homes.is_empty() || (0..self.conns.len()).any(|at| self.has_ready(at))
    }
}
