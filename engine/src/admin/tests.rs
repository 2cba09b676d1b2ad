//! Admin commands by subject. [`World`] is a controller, the table it sees and what time it is.

mod commands;
mod discovery;
mod events;
mod features;
mod identify;
mod logs;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use ferroce_wire::Wire;
use ferroce_wire::fabrics::{DISCOVERY_NQN, PROPERTY_SIZE_4};
use ferroce_wire::prop::{Cc, PropertyOffset};
use ferroce_wire::sqe::{Sgl, Sqe};
use ferroce_wire::status::Status;

use super::{Admin, Answer, Facts, execute, next_event, on_table};
use crate::controller::{Association, Controller, Kind};
use crate::port::{DriveId, DriveInfo, Tick};
use crate::property;
use crate::refusal::Refusal;
use crate::table::{Listener, Namespace, Subsystem, Table, Transport};

const NQN: &str = "nqn.2014-08.org.nvmexpress:uuid:5f0c4c1e-0000-4000-8000-000000000001";
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:5f0c4c1e-0000-4000-8000-00000000000a";
const HOSTID: [u8; 16] = *b"sixteen bytes id";
const CNTLID: u16 = 7;

struct World {
    controller: Controller,
    table: Table,
    facts: Facts,
    now: Tick,
}

impl World {
    /// A controller that was just enabled.
    fn new(kind: Kind) -> World {
        let mut world = World::not_ready(kind);
        world.enable();
        world
    }

    /// A controller right after Connect.
    fn not_ready(kind: Kind) -> World {
        let now = Tick(1_000_000_000);
        World {
            controller: Controller::new(Arc::new(association(kind, now)), 0, 15_000),
            table: table(),
            facts: Facts {
                firmware: "0.1.0".to_owned(),
                started: Tick(0),
                mdts: None,
            },
            now,
        }
    }

    /// An I/O controller that a host came to by `transport`.
    fn by(transport: Transport) -> World {
        let mut world = World::not_ready(Kind::Io);
        let mut who = association(Kind::Io, world.now);
        who.transport = transport;
        world.controller = Controller::new(Arc::new(who), 0, 15_000);
        world.enable();
        world
    }

    fn enable(&mut self) {
        let cc = Cc(0)
            .with_en(true)
            .with_css(match self.controller.who.kind {
                Kind::Io => Cc::CSS_ALL,
                Kind::Discovery => Cc::CSS_NVM,
            })
            .with_iosqes(Cc::IOSQES_64)
            .with_iocqes(Cc::IOCQES_16);
        self.set_cc(cc);
    }

    /// A controller reset, to the end, and enabled again.
    fn reset(&mut self) {
        self.controller.who.saw(0, self.now);
        self.set_cc(Cc(0));
        property::reset_done(&mut self.controller);
        self.enable();
    }

    fn set_cc(&mut self, cc: Cc) {
        let (controller, offset) = (&mut self.controller, PropertyOffset::CC.0);
        property::set(controller, offset, PROPERTY_SIZE_4, cc.0.into()).expect("CC is fine");
    }

    fn try_with(&mut self, sqe: Sqe, slot: u32, data: Option<&[u8]>) -> Answer {
        let mut admin = Admin {
            controller: &mut self.controller,
            table: &self.table,
            now: self.now,
            wall_ms: 1_700_000_000_000,
            facts: &self.facts,
        };
        execute(&mut admin, &sqe, slot, data)
    }

    /// With room for any data.
    fn run(&mut self, sqe: Sqe) -> Answer {
        self.try_with(sqe.with_sgl(Sgl::transport(1 << 20)), 0, None)
    }

    fn data(&mut self, sqe: Sqe) -> Vec<u8> {
        match self.run(sqe) {
            Answer::Data(data) => data,
            Answer::Page { mut data, len } => {
                data.resize(len as usize, 0);
                data
            }
            other => panic!("data was expected: {other:?}"),
        }
    }

    fn done(&mut self, sqe: Sqe) -> u32 {
        match self.run(sqe) {
            Answer::Done(dw0) => dw0,
            other => panic!("a value was expected: {other:?}"),
        }
    }

    fn structure<W: Wire>(&mut self, sqe: Sqe) -> W {
        let data = self.data(sqe);
        assert_eq!(data.len(), W::LEN);
        W::read(&data).expect("it is that long")
    }

    /// Status and location of a refusal.
    fn refused(&mut self, sqe: Sqe) -> (Status, u16) {
        match self.run(sqe) {
            Answer::Refused(refusal) => (refusal.status, refusal.location),
            other => panic!("a refusal was expected: {other:?}"),
        }
    }

    /// The table becomes what `change` makes of it.
    fn change(&mut self, change: impl FnOnce(&mut Table)) {
        let old = self.table.clone();
        change(&mut self.table);
        self.table.epoch += 1;
        on_table(&mut self.controller, &old, &self.table);
    }

    fn event(&mut self) -> Option<(u32, u32)> {
        next_event(&mut self.controller)
    }

    fn request_event(&mut self, slot: u32) -> Answer {
        let opcode = ferroce_wire::opcode::AdminOpcode::ASYNC_EVENT_REQUEST;
        self.try_with(Sqe::new(opcode.0), slot, None)
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn association(kind: Kind, now: Tick) -> Association {
    let subnqn = match kind {
        Kind::Io => NQN,
        Kind::Discovery => DISCOVERY_NQN,
    };
    Association::new(
        CNTLID,
        kind,
        subnqn.to_owned(),
        HOST.to_owned(),
        HOSTID,
        Transport::Tcp,
        (address("192.0.2.1:4420"), address("192.0.2.99:50000")),
        2,
        now,
    )
}

/// Namespaces 1 (4 KiB blocks, RAM, 1 GiB) and 5 (512 bytes, a read-only file with a cache).
fn table() -> Table {
    let namespaces = BTreeMap::from([
        (1, namespace(1, 4096, 1 << 18, false)),
        (5, namespace(5, 512, 1000, true)),
    ]);
    let subsystem = Subsystem {
        nqn: NQN.to_owned(),
        serial: "FERROCE0001".to_owned(),
        model: "Ferroce".to_owned(),
        cntlids: (1, 0xFFEF),
        allow: None,
        namespaces,
    };
    Table {
        version: 3,
        epoch: 3,
        subsystems: BTreeMap::from([(NQN.to_owned(), Arc::new(subsystem))]),
        listeners: vec![listener("192.0.2.1:4420", 1)],
        generation: 9,
    }
}

fn namespace(number: u8, block_len: u32, blocks: u64, file: bool) -> Namespace {
    let info = DriveInfo {
        label: format!("test {number}"),
        block_len,
        blocks,
        uuid: [number; 16],
        nguid: [number | 0x80; 16],
        read_only: file,
        volatile_cache: file,
        brings_memory: !file,
        preferred_blocks: if file { 8 } else { 1 },
        deallocates: !file,
        max_deallocate: 1 << 20,
        max_transfer: 1 << 20,
        max_bufs: 256,
        health: None,
    };
    Namespace {
        drive: DriveId(number.into()),
        info: Arc::new(info),
        read_only: file,
    }
}

fn listener(at: &str, port_id: u16) -> Listener {
    Listener {
        transport: Transport::Tcp,
        address: address(at),
        port_id,
    }
}

/// Changes the subsystem in a table.
fn subsystem(table: &mut Table) -> &mut Subsystem {
    Arc::make_mut(table.subsystems.get_mut(NQN).expect("it is there"))
}

/// Hosts of that name only.
fn only(host: &str) -> Option<BTreeSet<String>> {
    Some(BTreeSet::from([host.to_owned()]))
}

fn at(status: Status, byte: u16) -> (Status, u16) {
    (status.dnr(), byte)
}

fn nowhere(status: Status) -> (Status, u16) {
    (status.dnr(), Refusal::NOWHERE)
}
