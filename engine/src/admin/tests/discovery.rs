//! The Discovery log page.

use std::sync::Arc;

use ferroce_wire::Wire;
use ferroce_wire::discovery::{
    AdrFam, DiscoveryLogEntry, DiscoveryLogHeader, LSP_PORT_LOCAL, RdmaCms, RdmaPrType, RdmaQpType,
    SubType, TcpSecType, TrType,
};
use ferroce_wire::fabrics::DISCOVERY_NQN;
use ferroce_wire::log::LogId;
use ferroce_wire::sqe::Sqe;

use super::{HOST, NQN, World, address, listener, only, subsystem};
use crate::controller::{Association, Controller, Kind};
use crate::table::Transport;

fn read(world: &mut World, lsp: u8) -> (DiscoveryLogHeader, Vec<DiscoveryLogEntry>) {
    let head = Sqe::get_log_page(LogId::DISCOVERY, 0, 0, 1024).with_lsp(lsp);
    let header: DiscoveryLogHeader = world.structure(head);
    let numrec = header.numrec.get();
    let mut entries = Vec::new();
    for number in 1..=numrec {
        let sqe = Sqe::get_log_page(LogId::DISCOVERY, 0, 1024 * number, 1024).with_lsp(lsp);
        entries.push(world.structure(sqe));
    }
    let whole = Sqe::get_log_page(LogId::DISCOVERY, 0, 0, 1024 * (1 + numrec as u32));
    let whole = world.data(whole.with_lsp(lsp));
    assert_eq!(&whole[..1024], header.as_bytes());
    assert_eq!(whole.len() as u64, 1024 * (1 + numrec));
    (header, entries)
}

/// Subsystem type, name, and where.
fn ways(world: &mut World, lsp: u8) -> Vec<(SubType, String, String)> {
    let (_, entries) = read(world, lsp);
    let way = |entry: &DiscoveryLogEntry| {
        let traddr = entry.traddr().expect("text");
        let trsvcid = entry.trsvcid().expect("text");
        let subnqn = entry.subnqn().expect("an NQN").to_string();
        (entry.subtype, subnqn, format!("{traddr} {trsvcid}"))
    };
    entries.iter().map(way).collect()
}

fn current(at: &str) -> (SubType, String, String) {
    let name = DISCOVERY_NQN.to_owned();
    (SubType::CURRENT_DISCOVERY, name, at.to_owned())
}

fn nvm(at: &str) -> (SubType, String, String) {
    (SubType::NVM, NQN.to_owned(), at.to_owned())
}

/// As if the host had come to this address.
fn came_to(world: &mut World, local: &str) {
    let who = Association::new(
        7,
        Kind::Discovery,
        DISCOVERY_NQN.to_owned(),
        HOST.to_owned(),
        [1; 16],
        Transport::Tcp,
        (address(local), address(local)),
        1,
        world.now,
    );
    world.controller = Controller::new(Arc::new(who), 0, 0);
    world.enable();
}

#[test]
fn each_way_to_each_subsystem() {
    let mut world = World::new(Kind::Discovery);
    let (header, entries) = read(&mut world, 0);
    assert_eq!(
        (
            header.genctr.get(),
            header.numrec.get(),
            header.recfmt.get()
        ),
        (9, 2, 0)
    );
    let [itself, subsystem] = entries[..] else {
        panic!("two entries: {}", entries.len());
    };
    for entry in [itself, subsystem] {
        assert_eq!((entry.trtype, entry.adrfam), (TrType::TCP, AdrFam::IPV4));
        assert_eq!((entry.portid.get(), entry.cntlid.get()), (1, 0xFFFF));
        assert_eq!(entry.asqsz.get(), 256);
        assert_eq!(entry.treq, 0b100);
        assert_eq!(entry.tcp_tsas().sectype, TcpSecType::NONE);
        // Text fields are padded with spaces, names with zeroes.
        assert_eq!(&entry.traddr[..12], b"192.0.2.1   ");
        assert_eq!(&entry.trsvcid[..6], b"4420  ");
    }
    assert_eq!(
        (itself.subtype, itself.eflags.get()),
        (SubType::CURRENT_DISCOVERY, 0b11)
    );
    assert_eq!(itself.subnqn().expect("an NQN").as_str(), DISCOVERY_NQN);
    assert_eq!(
        (subsystem.subtype, subsystem.eflags.get()),
        (SubType::NVM, 0)
    );
    assert_eq!(subsystem.subnqn().expect("an NQN").as_str(), NQN);
    assert_eq!(subsystem.subnqn[NQN.len()..], [0; 256][NQN.len()..]);
}

#[test]
fn only_what_the_host_may_use() {
    let mut world = World::new(Kind::Discovery);
    world.change(|table| subsystem(table).allow = only("nqn.2014-08.org.example:other"));
    assert_eq!(ways(&mut world, 0), [current("192.0.2.1 4420")]);
    world.change(|table| subsystem(table).allow = only(HOST));
    assert_eq!(ways(&mut world, 0).len(), 2);
}

#[test]
fn a_listener_on_every_address_is_reported_where_the_host_came_to() {
    let mut world = World::new(Kind::Discovery);
    world.change(|table| table.listeners = vec![listener("0.0.0.0:4421", 1)]);
    let there = "192.0.2.1 4421";
    assert_eq!(ways(&mut world, 0), [current(there), nvm(there)]);
    // A socket on [::] takes IPv6 alone.
    world.change(|table| table.listeners = vec![listener("[::]:4420", 1)]);
    assert_eq!(ways(&mut world, 0), []);
    came_to(&mut world, "[2001:db8::5]:4420");
    let there = "2001:db8::5 4420";
    assert_eq!(ways(&mut world, 0), [current(there), nvm(there)]);
    let itself = read(&mut world, 0).1[0];
    assert_eq!(itself.adrfam, AdrFam::IPV6);
    // Another way here tells another page.
    assert_eq!(itself.eflags.get(), 0b10);
    // Which IPv4 address of ours would do for this host, nobody knows.
    world.change(|table| table.listeners.push(listener("0.0.0.0:4421", 2)));
    assert_eq!(ways(&mut world, 0), [current(there), nvm(there)]);
}

#[test]
fn port_local_entries() {
    let mut world = World::new(Kind::Discovery);
    world.change(|table| {
        table.listeners.push(listener("192.0.2.2:4420", 2));
        table.listeners.push(listener("192.0.2.1:8009", 3));
    });
    assert_eq!(ways(&mut world, 0).len(), 6);
    let here = "192.0.2.1 4420";
    assert_eq!(ways(&mut world, LSP_PORT_LOCAL), [current(here), nvm(here)]);
    assert_eq!(read(&mut world, LSP_PORT_LOCAL).0.dlpf, 0b10);
    assert_eq!(read(&mut world, 0).0.dlpf, 0);
    // The other bits ask for what is not offered.
    assert_eq!(ways(&mut world, 0x7D).len(), 6);
}

#[test]
fn rdma_says_what_kind_of_it_there_is() {
    let mut world = World::new(Kind::Discovery);
    world.change(|table| {
        let mut rdma = listener("192.0.2.1:4420", 2);
        rdma.transport = Transport::Rdma;
        table.listeners.push(rdma);
    });
    let (_, entries) = read(&mut world, 0);
    let kinds: Vec<_> = entries.iter().map(|entry| entry.trtype).collect();
    assert_eq!(
        kinds,
        [TrType::TCP, TrType::TCP, TrType::RDMA, TrType::RDMA]
    );
    let tsas = entries[3].rdma_tsas();
    assert_eq!(
        (tsas.rdma_qptype, tsas.rdma_prtype, tsas.rdma_cms),
        (
            RdmaQpType::RELIABLE_CONNECTED,
            RdmaPrType::ROCE_V2,
            RdmaCms::RDMA_CM
        )
    );
    assert_eq!(&entries[3].tsas[..4], &[1, 4, 1, 0]);
    assert_eq!(entries[3].trsvcid(), Some("4420"));
    // The same address by another transport is another port.
    let (_, local) = read(&mut world, LSP_PORT_LOCAL);
    assert!(local.len() == 2 && local.iter().all(|entry| entry.trtype == TrType::TCP));
}

#[test]
fn nothing_to_listen_on_is_an_empty_page() {
    let mut world = World::new(Kind::Discovery);
    world.change(|table| table.listeners.clear());
    let (header, entries) = read(&mut world, 0);
    assert_eq!((header.numrec.get(), entries.len()), (0, 0));
}
