use super::*;
use ferroce_wire::prop::PropertyOffset as P;

#[test]
fn cids_are_given_once_and_old_ones_are_not_known() {
    for depth in [1, 2, 3, 31, 32, 33, 1024, CidTable::<u32>::DEPTH_MAX] {
        let mut table = CidTable::new(depth);
        let mut cids = Vec::new();
        for value in 0..u32::from(depth) {
            let next = table.next_cid().unwrap();
            let cid = table.insert(value).unwrap();
            assert_eq!(cid, next);
            assert!(table.get(cid) == Some(&value));
            cids.push(cid);
        }
        assert_eq!(table.insert(7), Err(7));
        assert_eq!(table.next_cid(), None);
        let mut sorted = cids.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), usize::from(depth));
        assert_eq!(table.cids().count(), usize::from(depth));
        for (value, &cid) in cids.iter().enumerate() {
            assert_eq!(table.remove(cid), Some(value as u32));
            assert_eq!(table.remove(cid), None, "answered twice");
            assert_eq!(table.get_mut(cid), None);
        }
        assert!(table.is_empty());
    }
}

#[test]
fn no_cid_is_ffff_and_a_generation_takes_its_time_to_come_back() {
    let mut table = CidTable::new(16);
    let first = table.insert(()).unwrap();
    table.remove(first).unwrap();
    let mut lives = 1;
    loop {
        let cid = table.insert(()).unwrap();
        assert_ne!(cid, 0xFFFF);
        table.remove(cid).unwrap();
        if cid == first {
            break;
        }
        lives += 1;
    }
    assert_eq!(lives, (1 << 12) - 1);
}

#[test]
fn any_number_from_the_wire_is_safe_to_ask_for() {
    let mut table = CidTable::new(5);
    let cid = table.insert('a').unwrap();
    for asked in 0..=u16::MAX {
        assert_eq!(table.get(asked).is_some(), asked == cid);
        assert_eq!(table.get_mut(asked).is_some(), asked == cid);
        if asked != cid {
            assert_eq!(table.remove(asked), None);
        }
    }
}

#[test]
fn builders_set_their_fields() {
    let sqe = write(3, 0x1_0000_0002, 8, true);
    assert_eq!((sqe.opc, sqe.nsid.get()), (0x01, 3));
    assert_eq!(
        (sqe.slba(), sqe.blocks(), sqe.fua()),
        (0x1_0000_0002, 8, true)
    );
    let sqe = read(3, 7, 65536);
    assert_eq!((sqe.opc, sqe.nlb_z(), sqe.fua()), (0x02, 0xFFFF, false));
    assert!(write_zeroes(1, 0, 1, true).deac() && !write_zeroes(1, 0, 1, false).deac());
    assert_eq!((flush(9).opc, flush(9).nsid.get()), (0, 9));
    assert_eq!((compare(1, 0, 1).opc, verify(1, 0, 1).opc), (0x05, 0x0C));
    assert_eq!((keep_alive().opc, async_event_request().opc), (0x18, 0x0C));
    let sqe = connect(2, 128, 4, 5000);
    let fields = *ConnectCmd::of(&sqe);
    assert_eq!(
        (fields.qid.get(), fields.entries(), fields.kato_ms.get()),
        (2, 128, 5000)
    );
    assert!(fields.no_sq_flow_control());
    assert_eq!(PropertyGet::of(&property_get(P::CAP)).attrib, 1);
    assert_eq!(PropertyGet::of(&property_get(P::CSTS)).attrib, 0);
    let set = property_set(P::CC, 0x46_0001);
    assert_eq!(PropertySet::of(&set).value.get(), 0x46_0001);
    assert_eq!(
        disconnect().fabrics_type(),
        Some(ferroce_wire::FabricsType::DISCONNECT)
    );
}

/// A controller of which only the registers exist; RDY follows EN after `slow_ms`.
struct Registers {
    cap: Cap,
    cc: Cc,
    csts: Csts,
    slow_ms: u64,
    changes_at: Option<Tick>,
    log: Vec<String>,
}

impl Registers {
    fn new(cap: Cap) -> Registers {
        Registers {
            cap,
            cc: Cc::default(),
            csts: Csts::default(),
            slow_ms: 0,
            changes_at: None,
            log: Vec::new(),
        }
    }

    fn get(&mut self, at: P, now: Tick) -> u64 {
        if self.changes_at.is_some_and(|at| at <= now) {
            self.changes_at = None;
            self.csts = self.csts.with_rdy(self.cc.en());
            if self.cc.shn() != 0 {
                self.csts = self.csts.with_shst(Csts::SHST_COMPLETE);
            }
        }
        match at {
            P::CAP => self.cap.0,
            P::CC => u64::from(self.cc.0),
            P::CSTS => u64::from(self.csts.0),
            P::CRTO => u64::from(Crto::default().with_crwmt(20).0),
            _ => panic!("{at} was not expected"),
        }
    }

    fn run(&mut self, goal: Goal) -> Result<Tick, BringupError> {
        let mut machine = Bringup::new(goal, 3_000);
        let mut now = Tick(1_000);
        loop {
            match machine.next(now) {
                Step::Get(at) => {
                    let value = self.get(at, now);
                    machine.got(value, now)?;
                }
                Step::Set(P::CC, value) => {
                    self.log.push(format!("CC={value:06X}"));
                    self.cc = Cc(value as u32);
                    self.changes_at = Some(now.plus_ms(self.slow_ms));
                    machine.done(now);
                }
                Step::Set(at, _) => panic!("{at} was not expected"),
                Step::Program => {
                    assert!(!self.csts.rdy());
                    self.log.push("program".into());
                    machine.done(now);
                }
                Step::Wait(until) => {
                    assert!(until > now);
                    now = until;
                }
                Step::Ready => return Ok(now),
            }
        }
    }
}

fn usual() -> Cap {
    Cap::default().with_css(Cap::CSS_NVM).with_to(10)
}

#[test]
fn a_disabled_controller_is_enabled() {
    let mut registers = Registers::new(usual());
    registers.slow_ms = 30;
    let at = registers.run(Goal::Enabled).unwrap();
    assert_eq!(registers.log, ["program", "CC=460001"]);
    assert!((30..40).contains(&(at.0 / 1_000_000)));
    let mut registers = Registers::new(usual().with_css(Cap::CSS_NVM | Cap::CSS_IOCSS));
    registers.run(Goal::Enabled).unwrap();
    assert_eq!(registers.log, ["program", "CC=460061"]);
    let mut registers = Registers::new(usual().with_css(Cap::CSS_NOIOCSS));
    registers.run(Goal::Enabled).unwrap();
    assert_eq!(registers.log, ["program", "CC=460071"]);
    let mut registers = Registers::new(usual().with_css(0));
    registers.run(Goal::Enabled).unwrap();
    assert_eq!(registers.log, ["program", "CC=460001"]);
}

#[test]
fn a_controller_found_enabled_is_disabled_first() {
    let mut registers = Registers::new(usual());
    registers.cc = Cc(0x46_0001);
    registers.csts = Csts::default().with_rdy(true).with_cfs(true);
    registers.slow_ms = 5;
    // A fatal status is no reason not to try a reset; it is one if it survives.
    assert_eq!(registers.run(Goal::Enabled), Err(BringupError::Fatal));
    assert_eq!(registers.log, ["CC=460000", "program", "CC=460001"]);
    registers.csts = Csts::default().with_rdy(true);
    registers.log.clear();
    registers.run(Goal::Enabled).unwrap();
    assert_eq!(registers.log, ["CC=460000", "program", "CC=460001"]);
}

#[test]
fn a_controller_that_is_becoming_ready_is_not_disabled_before() {
    let mut registers = Registers::new(usual());
    registers.cc = Cc(0x46_0001);
    registers.changes_at = Some(Tick(700_000_000));
    let at = registers.run(Goal::Enabled).unwrap();
    assert_eq!(registers.log, ["CC=460000", "program", "CC=460001"]);
    assert!(at >= Tick(700_000_000));
    // One that failed, or is shut down, never becomes ready; nor does this one, which has had its five seconds.
    for (csts, ms) in [
        (Csts::default().with_cfs(true), 0),
        (Csts::default().with_shst(Csts::SHST_COMPLETE), 0),
        (Csts::default(), 5_000),
    ] {
        let mut registers = Registers::new(usual());
        (registers.cc, registers.csts) = (Cc(0x46_0001), csts);
        let at = registers.run(Goal::Disabled).unwrap();
        assert_eq!(registers.log, ["CC=460000"]);
        assert!((ms..ms + 10).contains(&(at.0 / 1_000_000)), "{ms}");
    }
}

#[test]
fn a_reset_under_way_is_waited_for() {
    let mut registers = Registers::new(usual());
    registers.csts = Csts::default().with_rdy(true);
    registers.changes_at = Some(Tick(7_000_000));
    registers.run(Goal::Enabled).unwrap();
    assert_eq!(registers.log, ["program", "CC=460001"]);
}

#[test]
fn a_drive_that_wants_to_be_left_alone_when_disabled_is() {
    let mut machine = Bringup::new(Goal::Disabled, 3_000).with_disable_pause_ms(2_300);
    let now = Tick(1_000);
    for (at, value) in [
        (P::CAP, usual().0),
        (P::CC, 0x46_0001),
        (P::CSTS, Csts::default().with_rdy(true).0.into()),
    ] {
        assert_eq!(machine.next(now), Step::Get(at));
        machine.got(value, now).unwrap();
    }
    assert_eq!(machine.next(now), Step::Set(P::CC, 0x46_0000));
    machine.done(now);
    let then = now.plus_ms(2_300);
    assert_eq!(machine.next(now), Step::Wait(then));
    assert_eq!(machine.next(then), Step::Get(P::CSTS));
}

#[test]
fn timeouts_are_those_of_the_controller() {
    let mut registers = Registers::new(usual());
    registers.slow_ms = 60_000;
    let late = |wanted, ms| Err(BringupError::ReadyTimeout { wanted, ms });
    assert_eq!(registers.run(Goal::Enabled), late(true, 5_000));
    let mut registers = Registers::new(usual().with_crwms(true));
    registers.slow_ms = 60_000;
    assert_eq!(registers.run(Goal::Enabled), late(true, 10_000));
    let mut registers = Registers::new(usual().with_to(0));
    registers.slow_ms = 1_990;
    assert!(registers.run(Goal::Enabled).is_ok());
    registers.slow_ms = 60_000;
    assert_eq!(registers.run(Goal::Disabled), late(false, 2_000));
}

#[test]
fn shutdown_is_notified_and_waited_for() {
    let mut registers = Registers::new(usual());
    registers.run(Goal::Enabled).unwrap();
    registers.slow_ms = 100;
    registers.run(Goal::ShutDown).unwrap();
    assert_eq!(registers.log.last().unwrap(), "CC=464001");
    registers.csts = Csts::default().with_rdy(true);
    registers.slow_ms = 60_000;
    let late = BringupError::ShutdownTimeout { ms: 3_000 };
    assert_eq!(registers.run(Goal::ShutDown), Err(late));
}

#[test]
fn what_we_cannot_use_is_refused() {
    let mut registers = Registers::new(usual().with_mpsmin(2));
    let why = registers.run(Goal::Enabled).unwrap_err();
    assert_eq!(why, BringupError::PageSize { mpsmin: 2 });
    assert!(why.to_string().contains("16384"));
    let mut registers = Registers::new(usual().with_css(1 << 3));
    let why = registers.run(Goal::Enabled).unwrap_err();
    assert_eq!(why, BringupError::CommandSets { css: 1 << 3 });
    assert_eq!(
        Registers::new(Cap(u64::MAX)).run(Goal::Disabled),
        Err(BringupError::Gone)
    );
    let mut registers = Registers::new(usual());
    registers.csts = Csts(u32::MAX);
    assert_eq!(registers.run(Goal::Enabled), Err(BringupError::Gone));
}
