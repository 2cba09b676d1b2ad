//! Which commands there are, and what all of them refuse alike.

use ferroce_wire::identify::{Cns, Csi};
use ferroce_wire::log::{CommandsSupportedAndEffects, LogId};
use ferroce_wire::opcode::AdminOpcode;
use ferroce_wire::prop::Cc;
use ferroce_wire::sqe::{KeyedSgl, Sgl, Sqe};
use ferroce_wire::status::Status;

use super::{World, at, nowhere};
use crate::admin::Answer;
use crate::controller::Kind;
use crate::limits;
use crate::table::Transport;

const KINDS: [Kind; 2] = [Kind::Io, Kind::Discovery];

#[test]
fn a_controller_that_is_not_ready_takes_none() {
    for kind in KINDS {
        let mut world = World::not_ready(kind);
        for opcode in 0..=255 {
            let refused = world.refused(Sqe::new(opcode));
            assert_eq!(refused, nowhere(Status::COMMAND_SEQUENCE_ERROR));
        }
    }
}

#[test]
fn a_controller_that_was_shut_down_takes_none_before_a_reset() {
    for kind in KINDS {
        for how in [Cc::SHN_NORMAL, Cc::SHN_ABRUPT] {
            let mut world = World::new(kind);
            world.set_cc(world.controller.cc.with_shn(how));
            for opcode in 0..=255 {
                let refused = world.refused(Sqe::new(opcode));
                assert_eq!(refused, nowhere(Status::COMMAND_SEQUENCE_ERROR));
            }
            world.reset();
            assert_eq!(world.done(Sqe::new(AdminOpcode::KEEP_ALIVE.0)), 0);
        }
    }
}

#[test]
fn the_log_of_commands_is_what_is_executed() {
    for kind in KINDS {
        let mut world = World::new(kind);
        let log: CommandsSupportedAndEffects =
            world.structure(Sqe::get_log_page(LogId::COMMAND_EFFECTS, 0, 0, 4096));
        let mut supported = Vec::new();
        for opcode in 0..=255u8 {
            let refused = world.run(Sqe::new(opcode));
            let unknown = matches!(refused, Answer::Refused(refusal)
                if (refusal.status, refusal.location) == at(Status::INVALID_OPCODE, 0));
            assert_eq!(
                log.acs[usize::from(opcode)].get().csupp(),
                !unknown,
                "{opcode:#x}"
            );
            if !unknown {
                supported.push(AdminOpcode(opcode).name().expect("it has a name"));
            }
        }
        assert_eq!(
            supported,
            [
                "Get Log Page",
                "Identify",
                "Abort",
                "Set Features",
                "Get Features",
                "Asynchronous Event Request",
                "Keep Alive",
            ]
        );
    }
}

#[test]
fn fused_commands_are_refused() {
    let mut world = World::new(Kind::Io);
    for fuse in [Sqe::FUSE_FIRST, Sqe::FUSE_SECOND, 0b11] {
        let mut sqe = Sqe::new(AdminOpcode::KEEP_ALIVE.0);
        sqe.flags |= fuse;
        assert_eq!(world.refused(sqe), at(Status::INVALID_FIELD, 1));
    }
}

#[test]
fn keep_alive_is_answered() {
    for kind in KINDS {
        let sqe = Sqe::new(AdminOpcode::KEEP_ALIVE.0);
        assert_eq!(World::new(kind).done(sqe), 0);
    }
}

#[test]
fn abort_leaves_commands_alone_and_says_so() {
    let mut world = World::new(Kind::Io);
    assert_eq!(world.done(Sqe::abort(0, 3)), 1);
    assert_eq!(world.done(Sqe::abort(limits::IO_QUEUES_MAX, 3)), 1);
    let beyond = Sqe::abort(limits::IO_QUEUES_MAX + 1, 3);
    assert_eq!(world.refused(beyond), at(Status::INVALID_FIELD, 40));
}

#[test]
fn data_goes_where_a_fabric_can_bring_it_and_it_fits() {
    let mut world = World::new(Kind::Io);
    let identify = Sqe::identify(Cns::CONTROLLER, 0, Csi::NVM);
    let mut with = |sqe: Sqe| match world.try_with(sqe, 0, None) {
        Answer::Data(data) => Ok(data.len()),
        Answer::Refused(refusal) => Err((refusal.status, refusal.location)),
        other => panic!("{other:?}"),
    };
    assert_eq!(with(identify.with_sgl(Sgl::transport(4096))), Ok(4096));
    assert_eq!(with(identify.with_sgl(Sgl::transport(8192))), Ok(4096));
    let short = at(Status::DATA_SGL_LENGTH_INVALID, 24);
    assert_eq!(with(identify.with_sgl(Sgl::transport(4095))), Err(short));
    let kind = at(Status::SGL_TYPE_INVALID, 24);
    assert_eq!(with(identify.with_sgl(Sgl::in_capsule(0, 4096))), Err(kind));
    assert_eq!(with(identify.with_sgl(Sgl::data_block(0, 4096))), Err(kind));
    let keyed =
        |len, invalidate| identify.with_sgl(KeyedSgl::new(0x1000, len, 5, invalidate).into());
    assert_eq!(with(keyed(4096, false)), Err(kind));
    // A PRP, which no fabric has.
    assert_eq!(with(identify), Err(at(Status::INVALID_FIELD, 1)));

    let mut world = World::by(Transport::Rdma);
    let mut with = |sqe: Sqe| match world.try_with(sqe, 0, None) {
        Answer::Data(data) => Ok(data.len()),
        Answer::Refused(refusal) => Err((refusal.status, refusal.location)),
        other => panic!("{other:?}"),
    };
    assert_eq!(with(keyed(4096, false)), Ok(4096));
    assert_eq!(with(keyed(8192, true)), Ok(4096));
    assert_eq!(with(keyed(4095, true)), Err(short));
    assert_eq!(with(identify.with_sgl(Sgl::transport(4096))), Err(kind));
    let mut other = Sgl::from(KeyedSgl::new(0x1000, 4096, 5, false));
    other.kind = 0x41;
    assert_eq!(with(identify.with_sgl(other)), Err(kind));
}

proptest::proptest! {
    /// Whatever a host sends is answered, and data fits where it is to go.
    #[test]
    fn any_command_at_all(
        bytes: [u8; 32],
        more: [u8; 32],
        opcode in 0..0x20u8,
        low in 0..0x90u8,
        data: [u8; 512],
        discovery: bool,
    ) {
        let kind = if discovery { Kind::Discovery } else { Kind::Io };
        let mut world = World::new(kind);
        let mut sqe: Sqe = bytemuck::cast([bytes, more]);
        sqe.opc = opcode;
        // Half of them name a structure, page or feature that may be there, and little of it.
        if more[0] & 1 == 0 {
            sqe.flags = 0x40;
            sqe.cdw10 = (sqe.cdw10.get() & 0x00FF_0700 | u32::from(low)).into();
            sqe.cdw11 = (sqe.cdw11.get() & 0xFF00_0000).into();
            sqe.cdw13 = 0.into();
            sqe.cdw12 = (sqe.cdw12.get() & 0xFFC).into();
            sqe.nsid = (sqe.nsid.get() & 7).into();
            sqe.dptr = Sgl::transport(1 << 20);
        }
        match world.try_with(sqe, 1, None) {
            Answer::Data(data) => assert!(data.len() <= sqe.dptr.len.get() as usize || sqe.dptr.kind & 0xF0 == 0x40),
            Answer::Page { data, len } => {
                assert!(data.len() <= len as usize && u64::from(len) == sqe.log_len());
            }
            Answer::Wants(len) => {
                world.try_with(sqe, 1, Some(&data[..len as usize]));
            }
            Answer::Held => assert_eq!(world.controller.aers, [1]),
            Answer::Refused(refusal) => assert!(!refusal.status.is_success()),
            Answer::Done(_) | Answer::Wide(_) => {}
        }
        assert!(world.event().is_none());
    }
}
