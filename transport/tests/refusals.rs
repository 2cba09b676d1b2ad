//! Every refusal that a host can provoke, over a socket, from a node: the status, and what it blames.

mod node;

use ferroce_engine::host as nvme;
use ferroce_engine::limits;
use ferroce_wire::Wire;
use ferroce_wire::fabrics::{
    CATTR_NO_SQ_FLOW_CONTROL, ConnectData, ConnectRefusal, DISCOVERY_NQN, PropertyGet, PropertySet,
};
use ferroce_wire::identify::{Cns, Csi};
use ferroce_wire::num::U16;
use ferroce_wire::opcode::{AdminOpcode, NvmOpcode};
use ferroce_wire::prop::{Cc, PropertyOffset};
use ferroce_wire::sqe::{Sgl, Sqe};
use ferroce_wire::status::Status;
use node::raw::{Answer, Raw, connect_command, connect_data, nqn};
use node::{NQN, Node};

fn refused(answer: &Answer, status: Status) {
    let got = answer.cqe.status();
    assert_eq!((got.code(), got.is_dnr()), (status, true), "{got}");
    assert!(answer.data.is_empty(), "no data for what is refused");
}

#[test]
fn connect_says_what_was_wrong() {
    let node = Node::start(&[4096]);
    let (_admin, cntlid) = Raw::admin(node.address);
    let try_it =
        |qid: u16,
         cntlid: u16,
         change: &dyn Fn(&mut ferroce_wire::fabrics::ConnectCmd, &mut ConnectData)| {
            let mut raw = Raw::greet(node.address);
            let (mut command, mut data) = (connect_command(qid), connect_data(cntlid));
            change(&mut command, &mut data);
            raw.connect(command, data)
        };
    let invalid = |answer: Answer, what: ConnectRefusal| {
        refused(&answer, Status::CONNECT_INVALID_PARAMETERS);
        assert_eq!(ConnectRefusal::from_dw0(answer.cqe.dw0.get()), what);
    };
    let new = 0xFFFF;
    invalid(
        try_it(0, new, &|_, data| data.subnqn = nqn("nqn.x:y").to_field()),
        ConnectRefusal::SUBNQN,
    );
    invalid(
        try_it(0, new, &|_, data| data.subnqn = [b'x'; 256]),
        ConnectRefusal::SUBNQN,
    );
    invalid(
        try_it(0, new, &|_, data| data.hostnqn = [b'x'; 256]),
        ConnectRefusal::HOSTNQN,
    );
    invalid(try_it(0, 3, &|_, _| {}), ConnectRefusal::CNTLID);
    invalid(
        try_it(0, new, &|command, _| command.sqsize_z = U16::new(0)),
        ConnectRefusal::SQSIZE,
    );
    invalid(
        try_it(0, new, &|command, _| command.sqsize_z = U16::new(256)),
        ConnectRefusal::SQSIZE,
    );
    invalid(
        try_it(1, cntlid, &|command, _| command.sqsize_z = U16::new(1024)),
        ConnectRefusal::SQSIZE,
    );
    invalid(
        try_it(limits::IO_QUEUES_MAX + 1, cntlid, &|_, _| {}),
        ConnectRefusal::QID,
    );
    // A node that was just started anew does not know it: the host makes a new association.
    let unknown = try_it(1, cntlid + 1, &|_, _| {}).cqe;
    assert_eq!(unknown.status(), Status::CONNECT_INVALID_PARAMETERS);
    assert_eq!(unknown.dw0.get(), ConnectRefusal::CNTLID.dw0());
    invalid(
        try_it(1, cntlid, &|_, data| data.hostid = [8; 16]),
        ConnectRefusal::HOSTID,
    );
    invalid(
        try_it(1, new, &|_, data| {
            data.subnqn = nqn(DISCOVERY_NQN).to_field()
        }),
        ConnectRefusal::QID,
    );
    let answer = try_it(0, new, &|command, _| command.recfmt = U16::new(1));
    refused(&answer, Status::CONNECT_INCOMPATIBLE_FORMAT);
    // Not Invalid Field, whatever it is.
    invalid(
        try_it(0, new, &|command, _| command.flags = 0b11 << 6),
        ConnectRefusal::Sqe(1),
    );
    // Who gives no name is known by its HOSTID.
    let answer = try_it(0, new, &|_, data| data.hostnqn = [0; 256]);
    assert!(answer.cqe.status().is_success());
    // The largest that are allowed.
    let answer = try_it(0, new, &|command, _| command.sqsize_z = U16::new(255));
    assert!(answer.cqe.status().is_success());
    let answer = try_it(limits::IO_QUEUES_MAX, cntlid, &|command, _| {
        command.sqsize_z = U16::new(1023);
    });
    assert!(answer.cqe.status().is_success());
}

#[test]
fn a_refused_connect_may_be_tried_again_on_the_same_connection() {
    let node = Node::start(&[4096]);
    let mut raw = Raw::greet(node.address);
    let mut data = connect_data(0xFFFF);
    data.subnqn = nqn("nqn.x:y").to_field();
    refused(
        &raw.connect(connect_command(0), data),
        Status::CONNECT_INVALID_PARAMETERS,
    );
    assert!(
        raw.connect(connect_command(0), connect_data(0xFFFF))
            .cqe
            .status()
            .is_success()
    );
    refused(
        &raw.connect(connect_command(0), connect_data(0xFFFF)),
        Status::COMMAND_SEQUENCE_ERROR,
    );
}

#[test]
fn commands_before_connect_and_before_enable_are_out_of_sequence() {
    let node = Node::start(&[4096]);
    let mut raw = Raw::greet(node.address);
    refused(
        &raw.ask(Sqe::new(AdminOpcode::KEEP_ALIVE.0), &[]),
        Status::COMMAND_SEQUENCE_ERROR,
    );
    let get = PropertyGet::new(PropertyOffset::CAP.0, 1).to_sqe();
    refused(&raw.ask(get, &[]), Status::COMMAND_SEQUENCE_ERROR);
    assert!(
        raw.connect(connect_command(0), connect_data(0xFFFF))
            .cqe
            .status()
            .is_success()
    );
    assert!(raw.ask(get, &[]).cqe.status().is_success());
    let identify = Sqe::identify(Cns::CONTROLLER, 0, Csi::NVM).with_sgl(Sgl::transport(4096));
    refused(&raw.ask(identify, &[]), Status::COMMAND_SEQUENCE_ERROR);
}

/// A read of `blocks` with an SGL of `len` bytes.
fn read(nsid: u32, lba: u64, blocks: u32, len: u32) -> Sqe {
    nvme::read(nsid, lba, blocks).with_sgl(Sgl::transport(len))
}

#[test]
fn io_commands_say_what_was_wrong() {
    let node = Node::start(&[4096, 512]);
    let (mut admin, cntlid) = Raw::admin(node.address);
    let mut io = Raw::io(node.address, cntlid, 1);
    let blocks = (16 << 20) / 4096;
    let mut check = |sqe: Sqe, data: &[u8], status: Status| refused(&io.ask(sqe, data), status);
    check(read(9, 0, 1, 4096), &[], Status::INVALID_NAMESPACE);
    check(read(0, 0, 1, 4096), &[], Status::INVALID_NAMESPACE);
    check(read(u32::MAX, 0, 1, 4096), &[], Status::INVALID_NAMESPACE);
    check(read(1, blocks, 1, 4096), &[], Status::LBA_OUT_OF_RANGE);
    check(read(1, blocks - 1, 2, 8192), &[], Status::LBA_OUT_OF_RANGE);
    check(read(1, u64::MAX, 1, 4096), &[], Status::LBA_OUT_OF_RANGE);
    check(read(1, 0, 257, 257 * 4096), &[], Status::INVALID_FIELD);
    check(read(1, 0, 1, 4095), &[], Status::DATA_SGL_LENGTH_INVALID);
    check(read(1, 0, 1, 8192), &[], Status::DATA_SGL_LENGTH_INVALID);
    check(
        nvme::read(1, 0, 1).with_sgl(Sgl::data_block(0, 4096)),
        &[],
        Status::SGL_TYPE_INVALID,
    );
    check(nvme::read(1, 0, 1), &[], Status::INVALID_FIELD);
    let fused = Sqe {
        flags: 1 | Sqe::PSDT_SGL << 6,
        ..read(1, 0, 1, 4096)
    };
    check(fused, &[], Status::INVALID_FIELD);
    check(Sqe::new(0x7E).with_ids(0, 1), &[], Status::INVALID_OPCODE);
    check(
        Sqe::new(NvmOpcode::RESERVATION_REGISTER.0).with_ids(0, 1),
        &[],
        Status::INVALID_OPCODE,
    );
    let write = |sgl| nvme::write(2, 0, 1, false).with_sgl(sgl);
    check(
        write(Sgl::in_capsule(0, 512)),
        &[],
        Status::DATA_SGL_LENGTH_INVALID,
    );
    check(
        write(Sgl::in_capsule(4, 512)),
        &[0; 512],
        Status::DATA_SGL_LENGTH_INVALID,
    );
    check(
        write(Sgl::in_capsule(u64::MAX, 512)),
        &[0; 512],
        Status::SGL_OFFSET_INVALID,
    );
    check(
        write(Sgl::in_capsule(0, 512)),
        &[0; 511],
        Status::DATA_SGL_LENGTH_INVALID,
    );
    let mut verify = nvme::verify(1, 0, 1);
    verify.cdw12 = (verify.cdw12.get() | 1 << 29).into();
    check(verify, &[], Status::INVALID_FIELD);
    let flush = Sqe::new(NvmOpcode::FLUSH.0);
    check(flush.with_ids(0, 7), &[], Status::INVALID_NAMESPACE);

    // Every one of them stands in the error log, the newest first.
    let log = Sqe::get_log_page(
        ferroce_wire::log::LogId::ERROR_INFORMATION,
        u32::MAX,
        0,
        64 * 64,
    );
    let answer = admin.ask(log.with_sgl(Sgl::transport(64 * 64)), &[]);
    assert!(answer.cqe.status().is_success(), "{}", answer.cqe.status());
    let newest = ferroce_wire::log::ErrorInfoEntry::read(&answer.data).expect("64 bytes");
    assert_eq!((newest.count.get(), newest.sqid.get()), (20, 1));
    assert_eq!(newest.nsid.get(), 7);
}

#[test]
fn compare_finds_the_difference_in_the_last_byte_of_the_last_part() {
    let node = Node::start(&[4096]);
    let (_admin, cntlid) = Raw::admin(node.address);
    let mut io = Raw::io(node.address, cntlid, 1);
    let mut data = vec![5; 8192];
    let sgl = Sgl::in_capsule(0, 8192);
    assert!(
        io.ask(nvme::write(1, 0, 2, false).with_sgl(sgl), &data)
            .cqe
            .status()
            .is_success()
    );
    let compare = nvme::compare(1, 0, 2).with_sgl(sgl);
    assert!(io.ask(compare, &data).cqe.status().is_success());
    data[8191] = 6;
    refused(&io.ask(compare, &data), Status::COMPARE_FAILURE);
}

#[test]
fn a_list_of_ranges_may_be_sent_with_room_for_more() {
    let node = Node::start(&[4096]);
    let (_admin, cntlid) = Raw::admin(node.address);
    let mut io = Raw::io(node.address, cntlid, 1);
    // Linux sends room for 256 ranges, whatever NR says.
    let mut list = vec![0; 4096];
    let range = ferroce_wire::feature::DsmRange {
        cattr: 0.into(),
        nlb: 4.into(),
        slba: 8.into(),
    };
    list[..16].copy_from_slice(range.as_bytes());
    let dsm = |len: u32| Sqe::dsm(1, 1, 1 << 2).with_sgl(Sgl::in_capsule(0, len));
    assert!(io.ask(dsm(4096), &list).cqe.status().is_success());
    assert!(io.ask(dsm(16), &list[..16]).cqe.status().is_success());
    refused(&io.ask(dsm(8), &list[..8]), Status::DATA_SGL_LENGTH_INVALID);
    refused(
        &io.ask(dsm(4112), &vec![0; 4112]),
        Status::DATA_SGL_LENGTH_INVALID,
    );
}

#[test]
fn more_commands_than_the_queue_has_entries_end_the_connection() {
    let node = Node::start(&[4096]);
    let (_admin, cntlid) = Raw::admin(node.address);
    let mut io = Raw::io(node.address, cntlid, 1);
    // Writes whose data is asked for and never comes.
    for _ in 0..64 {
        let write = nvme::write(1, 0, 1, false).with_sgl(Sgl::transport(4096));
        let sqe = Sqe {
            cid: U16::new(1),
            ..write
        };
        let mut bytes = Vec::new();
        let pdu = ferroce_wire::tcp::CapsuleCmd {
            sqe,
            ..Default::default()
        };
        let format = ferroce_transport::tcp::frame::Format::default();
        ferroce_transport::tcp::frame::put(&mut bytes, pdu, 0, &format);
        if std::io::Write::write_all(&mut io.socket, &bytes).is_err() {
            break;
        }
    }
    let mut rest = Vec::new();
    // An end or a reset; a time-out would be neither.
    if let Err(cause) = std::io::Read::read_to_end(&mut io.socket, &mut rest) {
        assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionReset);
    }
    let (_admin, cntlid) = Raw::admin(node.address);
    Raw::io(node.address, cntlid, 1);
}

#[test]
fn disconnect_ends_an_io_queue_and_only_that() {
    let node = Node::start(&[4096]);
    let (mut admin, cntlid) = Raw::admin(node.address);
    let mut io = Raw::io(node.address, cntlid, 1);
    let disconnect = nvme::disconnect();
    refused(
        &admin.ask(disconnect, &[]),
        Status::DISCONNECT_INVALID_QUEUE_TYPE,
    );
    assert!(io.ask(disconnect, &[]).cqe.status().is_success());
    assert!(io.is_ended());
    // The same QID is free again.
    let mut again = Raw::io(node.address, cntlid, 1);
    assert!(
        again
            .ask(read(1, 0, 1, 4096), &[])
            .cqe
            .status()
            .is_success()
    );
    assert_eq!(nqn(NQN).as_str(), NQN);
}

#[test]
fn without_flow_control_the_head_is_told_once() {
    let node = Node::start(&[4096]);
    let (_admin, cntlid) = Raw::admin(node.address);
    let mut io = Raw::greet(node.address);
    let mut command = connect_command(1);
    command.cattr = CATTR_NO_SQ_FLOW_CONTROL;
    let answer = io.connect(command, connect_data(cntlid));
    assert!(answer.cqe.status().is_success());
    assert_eq!(answer.cqe.sqhd.get(), 0xFFFF);
    for _ in 0..3 {
        assert_eq!(
            io.ask(Sqe::new(NvmOpcode::FLUSH.0).with_ids(0, 1), &[])
                .cqe
                .sqhd
                .get(),
            0
        );
    }
}

#[test]
fn after_a_shutdown_no_queue_is_added() {
    let node = Node::start(&[4096]);
    let (mut admin, cntlid) = Raw::admin(node.address);
    let cc = Cc::default().with_en(true).with_iosqes(6).with_iocqes(4);
    let cc = cc.with_shn(Cc::SHN_NORMAL);
    let shut = PropertySet::new(PropertyOffset::CC.0, 0, cc.0.into()).to_sqe();
    assert!(admin.ask(shut, &[]).cqe.status().is_success());
    let mut io = Raw::greet(node.address);
    let answer = io.connect(connect_command(1), connect_data(cntlid));
    refused(&answer, Status::CONNECT_INVALID_PARAMETERS);
}

#[test]
fn nothing_is_answered_after_a_disconnect() {
    let node = Node::start(&[4096]);
    let (_admin, cntlid) = Raw::admin(node.address);
    let mut io = Raw::io(node.address, cntlid, 1);
    let write = io.send(
        nvme::write(1, 0, 1, false).with_sgl(Sgl::transport(4096)),
        &[],
    );
    let r2t = io.r2t();
    assert_eq!(r2t.cccid.get(), write);
    let disconnect = io.send(nvme::disconnect(), &[]);
    // Other queues of the host need not wait for that.
    let mut other = Raw::io(node.address, cntlid, 2);
    assert!(
        other
            .ask(read(1, 0, 1, 4096), &[])
            .cqe
            .status()
            .is_success()
    );
    io.data(&r2t, &[7; 4096]);
    let (first, second) = (io.answer(), io.answer());
    assert_eq!(
        (first.cqe.cid.get(), first.cqe.status()),
        (write, Status::SUCCESS)
    );
    assert_eq!(
        (second.cqe.cid.get(), second.cqe.status()),
        (disconnect, Status::SUCCESS)
    );
    assert!(io.is_ended());
}

#[test]
fn an_event_request_is_aborted_and_nothing_else_is() {
    let node = Node::start(&[4096]);
    let (mut admin, _) = Raw::admin(node.address);
    let request = admin.send(nvme::async_event_request(), &[]);
    let abort = admin.send(Sqe::abort(0, request), &[]);
    let (first, second) = (admin.answer(), admin.answer());
    assert_eq!(first.cqe.cid.get(), request);
    assert_eq!(first.cqe.status(), Status::ABORT_REQUESTED);
    assert_eq!((second.cqe.cid.get(), second.cqe.dw0.get()), (abort, 0));
    // It is gone, and there never was such an I/O queue.
    for gone in [Sqe::abort(0, request), Sqe::abort(3, request)] {
        let answer = admin.ask(gone, &[]);
        assert!(answer.cqe.status().is_success());
        assert_eq!(answer.cqe.dw0.get(), 1);
    }
    // There is room for as many requests as before.
    for _ in 0..limits::AERS_MAX {
        admin.send(nvme::async_event_request(), &[]);
    }
    let beyond = admin.ask(nvme::async_event_request(), &[]);
    refused(&beyond, Status::ASYNC_EVENT_LIMIT_EXCEEDED);
}
