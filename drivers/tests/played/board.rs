//! The fabric of the engine inside a played controller: capsules from submission queues, data by PRPs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ferroce_buf::BufList;
use ferroce_drivers::dma::Bus;
use ferroce_engine::port::{
    Close, ConnId, Fabric, Fetch, InCapsule, Inbound, Reply, Room, Tag, Tick,
};
use ferroce_engine::table::Transport;
use ferroce_wire::identify::{
    Cns, Csi, IdentifyController, IdentifyNamespace, Nidt, NsDescriptorWriter,
    NvmIdentifyController,
};
use ferroce_wire::opcode::AdminOpcode;
use ferroce_wire::sqe::{Sgl, Sqe};
use ferroce_wire::status::Status;
use ferroce_wire::{Cqe, Wire as _};

const PAGE: u64 = 4096;

/// The engine's fabric: capsules from submission queues, data by PRPs.
pub struct Board {
    pub bus: Arc<Bus>,
    pub inbox: VecDeque<Event>,
    pub homes: VecDeque<BufList>,
    /// The capsule reported last.
    pub sqe: Option<Sqe>,
    pub in_capsule: Vec<u8>,
    /// Commands under way, by queue and CID: where their data is.
    pub commands: BTreeMap<(u16, u16), Sqe>,
    pub answers: VecDeque<(u16, Cqe)>,
    /// How often each queue was connected.
    pub lives: BTreeMap<u16, u32>,
    pub faults: u32,
    pub controller: Option<fn(&mut IdentifyController)>,
    pub namespace: Option<fn(&mut IdentifyNamespace)>,
    pub limits: Option<fn(&mut NvmIdentifyController)>,
    pub csi: Option<Csi>,
}

pub enum Event {
    Opened(ConnId),
    Capsule(ConnId, Sqe, Vec<u8>),
    Fetched(ConnId, Tag, BufList, Status),
    Closed(ConnId),
}

impl Board {
    fn conn(&self, qid: u16) -> ConnId {
        ConnId {
            slot: qid.into(),
            generation: self.lives.get(&qid).copied().unwrap_or(0),
        }
    }

    pub fn open(&mut self, qid: u16) {
        *self.lives.entry(qid).or_default() += 1;
        self.inbox.push_back(Event::Opened(self.conn(qid)));
    }

    pub fn close_of(&mut self, qid: u16) {
        self.inbox.push_back(Event::Closed(self.conn(qid)));
    }

    pub fn send(&mut self, qid: u16, sqe: Sqe, data: Vec<u8>) {
        let event = Event::Capsule(self.conn(qid), sqe, data);
        self.inbox.push_back(event);
    }

    /// A command of the host; `len` bytes of data go by its PRPs.
    pub fn give(&mut self, qid: u16, sqe: Sqe, len: u32) {
        assert_eq!(sqe.psdt(), Sqe::PSDT_PRP);
        let before = self.commands.insert((qid, sqe.cid.get()), sqe);
        assert!(before.is_none(), "a CID is used once at a time");
        let sgl = if len == 0 {
            Sgl::NONE
        } else {
            Sgl::transport(len)
        };
        self.send(qid, sqe.with_sgl(sgl), Vec::new());
    }

    /// Where byte `offset` of a command's data is, and how many bytes follow it there.
    fn place(&self, sqe: &Sqe, offset: u64, total: u64) -> (u64, u64) {
        let prp = sqe.prp();
        let (first, second) = (prp.prp1.get(), prp.prp2.get());
        let in_first = PAGE - first % PAGE;
        if offset < in_first {
            return (first + offset, in_first - offset);
        }
        let (index, inside) = ((offset - in_first) / PAGE, (offset - in_first) % PAGE);
        // Two pages: PRP2 is the second. More: it is the list (Base 4.3.1).
        let page = if total <= in_first + PAGE {
            second
        } else {
            assert!(
                second % PAGE + (index + 1) * 8 <= PAGE,
                "a list stays in its page"
            );
            let mut entry = [0; 8];
            assert!(
                self.bus.read(second + index * 8, &mut entry),
                "the list is mapped"
            );
            u64::from_le_bytes(entry)
        };
        assert!(
            page.is_multiple_of(PAGE),
            "only the first entry has an offset"
        );
        (page + inside, PAGE - inside)
    }

    /// Moves bytes between the host's memory and `data`.
    fn transfer(
        &mut self,
        sqe: &Sqe,
        offset: u32,
        total: u64,
        data: &mut [u8],
        to_host: bool,
    ) -> bool {
        let mut done = 0;
        while done < data.len() {
            let (at, run) = self.place(sqe, u64::from(offset) + done as u64, total);
            let len = (run as usize).min(data.len() - done);
            let piece = &mut data[done..done + len];
            let moved = match to_host {
                true => self.bus.write(at, piece),
                false => self.bus.read(at, piece),
            };
            if !moved {
                self.faults += 1;
                return false;
            }
            done += len;
        }
        true
    }
}

impl Fabric for Board {
    type Incoming = u32;

    fn adopt(&mut self, _: u32, _: Tick) {
        unreachable!("queues are opened by commands");
    }

    fn poll(&mut self, _: Tick, _: Room) -> Option<Inbound<'_>> {
        let nowhere = ([127, 0, 0, 1], 4420).into();
        Some(match self.inbox.pop_front()? {
            Event::Opened(conn) => Inbound::Opened {
                conn,
                local: nowhere,
                peer: nowhere,
                transport: Transport::Tcp,
            },
            Event::Capsule(conn, sqe, data) => {
                self.in_capsule = data;
                Inbound::Capsule {
                    conn,
                    sqe: self.sqe.insert(sqe),
                    data: InCapsule::Bytes(&self.in_capsule),
                }
            }
            Event::Fetched(conn, tag, bufs, status) => Inbound::Fetched {
                conn,
                tag,
                bufs,
                status,
            },
            Event::Closed(conn) => Inbound::Closed { conn },
        })
    }

    fn fetch(&mut self, conn: ConnId, mut fetch: Fetch) {
        let sqe = self.commands[&(conn.slot as u16, fetch.cid)];
        let total = fetch.sgl.len.get().into();
        let mut data = vec![0; fetch.bufs.len()];
        let moved = self.transfer(&sqe, fetch.offset, total, &mut data, false);
        fetch.bufs.copy_in(0, &data);
        let status = match moved {
            true => Status::SUCCESS,
            false => Status::DATA_TRANSFER_ERROR,
        };
        self.inbox
            .push_back(Event::Fetched(conn, fetch.tag, fetch.bufs, status));
    }

    fn reply(&mut self, conn: ConnId, reply: Reply) {
        let qid = conn.slot as u16;
        let command = self.commands.get(&(qid, reply.cid)).copied();
        if let (Some(sqe), false) = (command, reply.bufs.is_empty()) {
            let mut data = vec![0; reply.bufs.len()];
            reply.bufs.copy_out(0, &mut data);
            if qid == 0 && sqe.admin_opcode() == AdminOpcode::IDENTIFY {
                match (sqe.cns(), self.controller, self.namespace) {
                    (Cns::CONTROLLER, Some(change), _) => {
                        change(IdentifyController::view_mut(&mut data).expect("all of it"));
                    }
                    (Cns::NAMESPACE, _, Some(change)) => {
                        change(IdentifyNamespace::view_mut(&mut data).expect("all of it"));
                    }
                    (Cns::CS_CONTROLLER, ..) if let Some(change) = self.limits => {
                        change(NvmIdentifyController::view_mut(&mut data).expect("all of it"));
                    }
                    (Cns::NS_DESCRIPTORS, ..) if let Some(csi) = self.csi => {
                        data.fill(0);
                        NsDescriptorWriter::new(&mut data).push(Nidt::CSI, &[csi.0]);
                    }
                    _ => {}
                }
            }
            self.transfer(
                &sqe,
                reply.offset,
                reply.sgl.len.get().into(),
                &mut data,
                true,
            );
        }
        if let Some(cqe) = reply.cqe {
            self.commands.remove(&(qid, reply.cid));
            self.answers.push_back((qid, cqe));
        }
        self.homes.push_back(reply.bufs);
    }

    fn wants_more(&self, _: ConnId) -> bool {
        true
    }

    fn close(&mut self, conn: ConnId, _: Close) {
        self.commands
            .retain(|(qid, _), _| u32::from(*qid) != conn.slot);
        self.inbox.push_back(Event::Closed(conn));
    }

    fn home(&mut self) -> Option<BufList> {
        self.homes.pop_front()
    }

    fn flush(&mut self, _: Tick) {}

    fn next_timeout(&self) -> Option<Tick> {
        None
    }

    fn has_work(&self) -> bool {
        !self.inbox.is_empty()
    }
}
