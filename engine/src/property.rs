//! Controller properties as a fabrics host reads and writes them (NVMe Base 3.1.4): what the
//! controller can do (CAP, VS, CRTO), and its life (CC, CSTS): enable, reset, shutdown.

use ferroce_wire::fabrics::{PROPERTY_SIZE_4, PROPERTY_SIZE_8};
use ferroce_wire::prop::{Cap, Cc, Crto, Csts, PropertyOffset, Vs};
use ferroce_wire::status::Status;

use crate::controller::{Controller, Kind};
use crate::limits;

/// The revision this controller follows, in VS and Identify Controller.
pub const VERSION: Vs = Vs::V2_0;

/// What a Property Set has begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing.
    None,
    /// CC.EN went to 1; CSTS.RDY is set.
    Enabled,
    /// CC.EN went to 0. All I/O queues must go, then [`reset_done`] clears CSTS.RDY. Features, events
    /// and the error log are forgotten already; the requests in `aers` are the caller's to answer.
    Reset,
    /// CC.SHN asked for a shutdown. All I/O queues must go, then [`reset_done`] has CSTS.SHST say that it is complete. Drives are
    /// not told: other hosts go on using them, and what was acknowledged stays so.
    Shutdown,
}

/// CRTO.CRWMT and CAP.TO, in units of 500 ms: a reset waits for the drives to return what they have,
/// as long as a new queue would, and a little for the queues to close.
pub(crate) const TIMEOUT_500_MS: u8 = (limits::STALE_WAIT_MS / 500) as u8 + 10;
const _: () = assert!(limits::STALE_WAIT_MS / 500 + 10 <= u8::MAX as u64);

/// Property Get. `attrib` is the command's, with the size in bits 2:0.
///
/// # Errors
/// Invalid Field if there is no such property, or not of that size.
pub fn get(controller: &Controller, offset: u32, attrib: u8) -> Result<u64, Status> {
    let (size, value) = match PropertyOffset(offset) {
        PropertyOffset::CAP => (PROPERTY_SIZE_8, cap(controller.who.kind).0),
        PropertyOffset::VS => (PROPERTY_SIZE_4, u64::from(VERSION.0)),
        PropertyOffset::CC => (PROPERTY_SIZE_4, u64::from(controller.cc.0)),
        PropertyOffset::CSTS => (PROPERTY_SIZE_4, u64::from(controller.csts.0)),
        PropertyOffset::CRTO => {
            let crto = Crto(0).with_crwmt(TIMEOUT_500_MS.into());
            (PROPERTY_SIZE_4, u64::from(crto.0))
        }
        _ => return Err(Status::INVALID_FIELD.dnr()),
    };
    if attrib & SIZE_BITS == size {
        Ok(value)
    } else {
        Err(Status::INVALID_FIELD.dnr())
    }
}

/// Property Set. Only CC can be written: there is no subsystem reset or shutdown (CAP.NSSRS,
/// CAP.NSSS).
///
/// # Errors
/// Invalid Field if the property or the value cannot be set; Command Sequence Error if the
/// controller is enabled again before the reset is over.
pub fn set(
    controller: &mut Controller,
    offset: u32,
    attrib: u8,
    value: u64,
) -> Result<Effect, Status> {
    if PropertyOffset(offset) != PropertyOffset::CC || attrib & SIZE_BITS != PROPERTY_SIZE_4 {
        return Err(Status::INVALID_FIELD.dnr());
    }
    let old = controller.cc;
    let new = Cc(value as u32 & CC_BITS);
    if new.shn() == SHN_RESERVED {
        return Err(Status::INVALID_FIELD.dnr());
    }
    let effect = match (old.en(), new.en()) {
        (false, true) => {
            check_enable(controller, new)?;
            // What was shut down while it was disabled starts anew.
            controller.csts = Csts(0).with_rdy(true);
            Effect::Enabled
        }
        (true, false) => {
            controller.forget();
            controller.csts = controller.csts.with_shst(Csts::SHST_NORMAL);
            Effect::Reset
        }
        (true, true) => {
            // What an enabled controller was told stands until it is reset (Base 3.1.4.5).
            if (old.0 ^ new.0) & !SHN_BITS != 0 {
                return Err(Status::INVALID_FIELD.dnr());
            }
            Effect::None
        }
        (false, false) => Effect::None,
    };
    controller.cc = new;
    if new.shn() == Cc::SHN_NONE || new.shn() == old.shn() {
        return Ok(effect);
    }
    controller.csts = controller.csts.with_shst(Csts::SHST_OCCURRING);
    match effect {
        Effect::None => Ok(Effect::Shutdown),
        // A reset ends the queues as well; it is what the caller must act on.
        effect => Ok(effect),
    }
}

/// All I/O queues of a controller in reset or shutdown are gone: CSTS.RDY clears, or a shutdown is complete, or both.
pub fn reset_done(controller: &mut Controller) {
    if controller.csts.shst() == Csts::SHST_OCCURRING {
        controller.csts = controller.csts.with_shst(Csts::SHST_COMPLETE);
    }
    if !controller.cc.en() {
        controller.csts = controller.csts.with_rdy(false);
        // Not when the reset begins: another core may still admit a queue then, which ends at once.
        controller.who.forget_io_queues();
    }
}

/// Bits of ATTRIB that hold the size.
const SIZE_BITS: u8 = 0b111;
/// SHN 11b means nothing.
const SHN_RESERVED: u8 = 0b11;
const SHN_BITS: u32 = 0b11 << 14;
/// Bits of CC that can be written; CRIME cannot, since CAP.CRMS does not offer it.
const CC_BITS: u32 = 0x00FF_FFF1;

fn cap(kind: Kind) -> Cap {
    let css = match kind {
        Kind::Io => Cap::CSS_NVM | Cap::CSS_IOCSS,
        // NCSS is set on a Discovery controller too (Base 3.1.4.1), and nothing else applies.
        Kind::Discovery => Cap::CSS_NVM,
    };
    Cap(0)
        .with_mqes_z(limits::IO_DEPTH_MAX - 1)
        .with_cqr(true)
        .with_to(TIMEOUT_500_MS)
        .with_css(css)
        .with_crwms(true)
}

/// What CC must say for the controller to become ready.
fn check_enable(controller: &Controller, cc: Cc) -> Result<(), Status> {
    if controller.csts.rdy() {
        // The last reset has not ended.
        return Err(Status::COMMAND_SEQUENCE_ERROR.dnr());
    }
    let io = controller.who.kind == Kind::Io;
    let css = cc.css() == Cc::CSS_NVM || (io && cc.css() == Cc::CSS_ALL);
    // Without I/O queues their entry sizes mean nothing.
    let sizes = !io || (cc.iosqes() == Cc::IOSQES_64 && cc.iocqes() == Cc::IOCQES_16);
    if css && sizes && cc.mps() == 0 && cc.ams() == 0 {
        Ok(())
    } else {
        Err(Status::INVALID_FIELD.dnr())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::controller::Association;
    use crate::port::Tick;
    use crate::refusal::Refusal;
    use crate::table::Transport;
    use ferroce_wire::sqe::Sqe;

    const CC: u32 = PropertyOffset::CC.0;
    const ENABLE: Cc = Cc(0x0046_0001);

    fn controller(kind: Kind) -> Controller {
        let at = "192.0.2.1:4420".parse().expect("an address");
        let who = Association::new(
            1,
            kind,
            "nqn.x".to_owned(),
            "nqn.y".to_owned(),
            [1; 16],
            Transport::Tcp,
            (at, at),
            1,
            Tick(5),
        );
        Controller::new(Arc::new(who), 0, 0)
    }

    fn set_cc(controller: &mut Controller, cc: Cc) -> Result<Effect, Status> {
        set(controller, CC, PROPERTY_SIZE_4, cc.0.into())
    }

    fn csts(controller: &Controller) -> Csts {
        let offset = PropertyOffset::CSTS.0;
        Csts(get(controller, offset, PROPERTY_SIZE_4).expect("CSTS") as u32)
    }

    #[test]
    fn properties_there_are() {
        for (kind, cap) in [
            // CRWMS; IOCSS and NCSS; TO of 25 s; CQR; MQES.
            (Kind::Io, 0x0800_0820_3201_03FF),
            (Kind::Discovery, 0x0800_0020_3201_03FF),
        ] {
            let controller = controller(kind);
            let mut known = Vec::new();
            for offset in 0..0x1100 {
                for attrib in 0..8 {
                    match get(&controller, offset, attrib) {
                        Ok(value) => known.push((offset, attrib, value)),
                        Err(status) => assert_eq!(status, Status::INVALID_FIELD.dnr()),
                    }
                }
            }
            assert_eq!(
                known,
                [
                    (0x00, 1, cap),
                    (0x08, 0, 0x2_0000),
                    (0x14, 0, 0),
                    (0x1C, 0, 0),
                    (0x68, 0, 50),
                ]
            );
        }
    }

    #[test]
    fn only_cc_can_be_set() {
        let mut controller = controller(Kind::Io);
        for offset in 0..0x1100 {
            for attrib in 0..8 {
                if (offset, attrib) != (CC, PROPERTY_SIZE_4) {
                    let refused = set(&mut controller, offset, attrib, ENABLE.0.into());
                    assert_eq!(refused, Err(Status::INVALID_FIELD.dnr()));
                }
            }
        }
        assert!(!csts(&controller).rdy());
    }

    #[test]
    fn enable_reset_enable() {
        let mut controller = controller(Kind::Io);
        assert_eq!(set_cc(&mut controller, ENABLE), Ok(Effect::Enabled));
        assert!(csts(&controller).rdy() && controller.is_enabled());
        assert_eq!(get(&controller, CC, 0), Ok(ENABLE.0.into()));
        assert_eq!(set_cc(&mut controller, ENABLE), Ok(Effect::None));
        let off = ENABLE.with_en(false);
        assert_eq!(set_cc(&mut controller, off), Ok(Effect::Reset));
        assert!(csts(&controller).rdy() && !controller.is_enabled());
        let early = set_cc(&mut controller, ENABLE);
        assert_eq!(early, Err(Status::COMMAND_SEQUENCE_ERROR.dnr()));
        // A second clearing of EN is no second reset.
        assert_eq!(set_cc(&mut controller, off), Ok(Effect::None));
        reset_done(&mut controller);
        assert!(!csts(&controller).rdy());
        assert_eq!(set_cc(&mut controller, ENABLE), Ok(Effect::Enabled));
        // News of a reset that was over already changes nothing.
        reset_done(&mut controller);
        assert!(csts(&controller).rdy());
    }

    #[test]
    fn what_cannot_be_enabled() {
        let refused = Err(Status::INVALID_FIELD.dnr());
        for cc in [
            ENABLE.with_css(Cc::CSS_ADMIN),
            ENABLE.with_css(1),
            ENABLE.with_mps(1),
            ENABLE.with_ams(1),
            ENABLE.with_iosqes(7),
            ENABLE.with_iocqes(0),
            ENABLE.with_shn(0b11),
        ] {
            let mut controller = controller(Kind::Io);
            assert_eq!(set_cc(&mut controller, cc), refused, "{cc:?}");
            assert!(!csts(&controller).rdy());
            assert_eq!(get(&controller, CC, 0), Ok(0));
        }
        for css in [Cc::CSS_NVM, Cc::CSS_ALL] {
            let mut controller = controller(Kind::Io);
            let enabled = set_cc(&mut controller, ENABLE.with_css(css));
            assert_eq!(enabled, Ok(Effect::Enabled));
            // What was chosen stands.
            let other = ENABLE.with_css(Cc::CSS_ALL - css);
            assert_eq!(set_cc(&mut controller, other), refused);
        }
        // A discovery controller has no I/O queues whose entries could have a size.
        let mut discovery = controller(Kind::Discovery);
        let all = Cc(1).with_css(Cc::CSS_ALL);
        assert_eq!(set_cc(&mut discovery, all), refused);
        assert_eq!(set_cc(&mut discovery, Cc(1)), Ok(Effect::Enabled));
    }

    #[test]
    fn reserved_bits_do_not_stick() {
        let mut controller = controller(Kind::Io);
        let cc = Cc(ENABLE.0 | 0xFF00_000E);
        assert_eq!(set_cc(&mut controller, cc), Ok(Effect::Enabled));
        assert_eq!(get(&controller, CC, 0), Ok(ENABLE.0.into()));
        let high = set(&mut controller, CC, 0, u64::from(ENABLE.0) | 1 << 40);
        assert_eq!(high, Ok(Effect::None));
    }

    #[test]
    fn shutdown() {
        for shn in [Cc::SHN_NORMAL, Cc::SHN_ABRUPT] {
            let mut controller = controller(Kind::Io);
            // Before it is ready, its timer does not run either.
            assert_eq!(controller.silence_allowed_ms(), Some(120_000));
            set_cc(&mut controller, ENABLE).expect("enabled");
            let down = set_cc(&mut controller, ENABLE.with_shn(shn));
            assert_eq!(down, Ok(Effect::Shutdown));
            assert_eq!(csts(&controller).shst(), Csts::SHST_OCCURRING);
            reset_done(&mut controller);
            assert_eq!(csts(&controller).shst(), Csts::SHST_COMPLETE);
            assert!(csts(&controller).rdy());
            let again = set_cc(&mut controller, ENABLE.with_shn(shn));
            assert_eq!(again, Ok(Effect::None));
            // The Keep Alive Timer does not end an association that is on its way out; a host that
            // never comes for its last step is not waited for without end.
            assert_eq!(controller.silence_allowed_ms(), Some(120_000));
            controller.set_kato(5000);
            assert_eq!(controller.silence_allowed_ms(), Some(120_000));
            assert_eq!(set_cc(&mut controller, Cc(0)), Ok(Effect::Reset));
            assert_eq!(csts(&controller).shst(), Csts::SHST_NORMAL);
            reset_done(&mut controller);
            assert_eq!(csts(&controller), Csts(0));
        }
        // Linux clears EN and asks for the shutdown in one; others never enabled anything.
        let mut controller = controller(Kind::Io);
        let down = Cc(0).with_shn(Cc::SHN_NORMAL);
        assert_eq!(set_cc(&mut controller, down), Ok(Effect::Shutdown));
        assert_eq!(csts(&controller).shst(), Csts::SHST_OCCURRING);
        reset_done(&mut controller);
        assert_eq!(csts(&controller).shst(), Csts::SHST_COMPLETE);
        set_cc(&mut controller, ENABLE).expect("enabled");
        assert_eq!(csts(&controller), Csts(0).with_rdy(true));
        assert_eq!(set_cc(&mut controller, down), Ok(Effect::Reset));
        assert_eq!(csts(&controller).shst(), Csts::SHST_OCCURRING);
        reset_done(&mut controller);
        assert_eq!(csts(&controller), Csts(0).with_shst(Csts::SHST_COMPLETE));
    }

    #[test]
    fn an_io_queue_that_another_core_admits_during_a_reset_is_forgotten_with_it() {
        let mut controller = controller(Kind::Io);
        set_cc(&mut controller, ENABLE).expect("enabled");
        set_cc(&mut controller, Cc(0)).expect("reset");
        controller.who.note_io_queue();
        reset_done(&mut controller);
        assert!(!controller.who.has_io_queues());
    }

    #[test]
    fn a_reset_forgets() {
        let mut controller = controller(Kind::Io);
        set_cc(&mut controller, ENABLE).expect("enabled");
        controller
            .who
            .note_error(&Refusal::opcode(), 0, &Sqe::new(0xFF));
        controller.set_kato(1);
        controller.features.async_event_config = 0x100;
        controller.features.behavior = [1; 4];
        controller.changed_namespaces.insert(1);
        controller.events.namespaces.raise();
        controller.aers.push_back(4);
        controller.who.saw(0, Tick(77));
        set_cc(&mut controller, Cc(0)).expect("reset");
        assert_eq!(controller.features.async_event_config, 0);
        assert!(!controller.features.acre());
        assert!(controller.changed_namespaces.is_empty());
        assert_eq!(controller.events, crate::controller::Events::default());
        assert_eq!((controller.kato_ms, controller.reset_at), (0, Tick(77)));
        let errors = controller.who.errors.lock().expect("not poisoned");
        assert_eq!((errors.entries.len(), errors.count), (0, 1));
        // Those the caller must answer.
        assert_eq!(controller.aers, [4]);
    }
}
