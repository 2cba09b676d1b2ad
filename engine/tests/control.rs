//! The control thread's mind by state: who is admitted, what ends, and how changes are agreed on.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::task::Waker;

use ferroce_engine::control::{Change, ChangeError, Control};
use ferroce_engine::limits;
use ferroce_engine::mail::{ConnectRequest, Mailbox, Refused, ToControl, ToCore, mailbox};
use ferroce_engine::port::{DriveId, DriveInfo, Tick};
use ferroce_engine::queue::QueueRef;
use ferroce_engine::table::{Listener, Subsystem, Transport};
use ferroce_wire::fabrics::{ConnectRefusal, DISCOVERY_NQN, Nqn};
use ferroce_wire::status::Status;

const NQN: &str = "nqn.2026-01.test:a";
const HOST: &str = "nqn.2026-01.test:host";

type Mail = ToCore<(), ()>;

struct Node {
    control: Control<(), ()>,
    cores: Vec<Mailbox<Mail>>,
    now: Tick,
    next_queue: u32,
}

impl Node {
    /// A node of `cores` cores with one subsystem, every core up to date.
    fn new(cores: usize) -> Node {
        let (posts, cores) = (0..cores)
            .map(|_| mailbox(64, Waker::noop().clone()))
            .unzip();
        let control = Control::new(posts);
        let mut node = Node {
            control,
            cores,
            now: Tick(1),
            next_queue: 0,
        };
        node.control
            .change(Change::AddSubsystem(Subsystem {
                nqn: NQN.into(),
                serial: "1".into(),
                model: "test".into(),
                cntlids: (10, 12),
                allow: None,
                namespaces: Default::default(),
            }))
            .expect("it is the first");
        node.drain();
        node
    }

    fn mail(&mut self, core: usize) -> Vec<Mail> {
        std::iter::from_fn(|| self.cores[core].poll()).collect()
    }

    /// Every core has taken the table it was sent, and has nothing in flight.
    fn drain(&mut self) {
        for core in 0..self.cores.len() {
            self.drain_core(core);
        }
    }

    fn drain_core(&mut self, core: usize) {
        for mail in self.mail(core) {
            if let ToCore::Table(table) = mail {
                let (epoch, version) = (table.epoch, table.version);
                self.control
                    .on_mail(ToControl::HasTable { core, version }, self.now);
                self.control
                    .on_mail(ToControl::Drained { core, epoch }, self.now);
            }
        }
    }

    fn ask(&mut self, core: usize, change: impl FnOnce(&mut ConnectRequest)) -> QueueRef {
        let address: SocketAddr = "127.0.0.1:4420".parse().expect("it is one");
        let mut request = ConnectRequest {
            transport: Transport::Tcp,
            local: address,
            peer: address,
            qid: 0,
            depth: 32,
            cntlid: 0xFFFF,
            hostid: [7; 16],
            subnqn: Nqn::new(NQN).expect("it is one"),
            hostnqn: Nqn::new(HOST).expect("it is one"),
        };
        change(&mut request);
        let queue = QueueRef {
            slot: self.next_queue,
            life: 0,
        };
        self.next_queue += 1;
        let request = Box::new(request);
        self.control.on_mail(
            ToControl::Connect {
                core,
                queue,
                request,
            },
            self.now,
        );
        queue
    }

    /// The one admission that came to a core; `None` while there is none.
    fn admission(&mut self, core: usize, of: QueueRef) -> Option<Result<u16, Refused>> {
        let mut found = None;
        for mail in self.mail(core) {
            if let ToCore::Admit { queue, admission } = mail
                && queue == of
            {
                assert!(found.is_none(), "one Connect, one answer");
                found = Some(admission.map(|admission| admission.who.cntlid));
                self.control.on_time(self.now);
            }
        }
        found
    }

    fn connect(
        &mut self,
        core: usize,
        change: impl FnOnce(&mut ConnectRequest),
    ) -> Result<u16, Refused> {
        let queue = self.ask(core, change);
        self.admission(core, queue).expect("it is answered at once")
    }

    /// An admin queue of a controller that is ready.
    fn controller(&mut self, core: usize) -> u16 {
        let cntlid = self.connect(core, |_| {}).expect("it is allowed");
        let hosts = self.control.hosts();
        let host = hosts
            .iter()
            .find(|host| host.who.cntlid == cntlid)
            .expect("it is listed");
        host.who.set_ready(true);
        cntlid
    }

    fn began(&mut self, cntlid: u16, qid: u16) {
        let began = ToControl::QueueBegan { cntlid, qid };
        self.control.on_mail(began, self.now);
    }

    fn ended(&mut self, cntlid: u16, qid: u16) {
        self.control
            .on_mail(ToControl::QueueEnded { cntlid, qid }, self.now);
    }
}

fn io(cntlid: u16, qid: u16) -> impl FnOnce(&mut ConnectRequest) {
    move |request| (request.cntlid, request.qid) = (cntlid, qid)
}

fn invalid(what: ConnectRefusal) -> Result<u16, Refused> {
    Err(Refused {
        status: Status::CONNECT_INVALID_PARAMETERS.dnr(),
        dw0: what.dw0(),
    })
}

#[test]
fn an_admin_queue_gets_a_cntlid_of_the_range_until_none_is_left() {
    let mut node = Node::new(2);
    let got: Vec<u16> = (0..3)
        .map(|core| node.connect(core % 2, |_| {}).unwrap())
        .collect();
    assert_eq!(got, [10, 11, 12]);
    let busy = node.connect(0, |_| {}).unwrap_err();
    assert_eq!(
        busy.status,
        Status::CONNECT_CONTROLLER_BUSY,
        "and may be tried again"
    );
    node.ended(11, 0);
    assert_eq!(node.connect(0, |_| {}), Ok(11));
}

#[test]
fn numbers_of_controllers_go_round() {
    let mut node = Node::new(1);
    let got: Vec<u16> = (0..7)
        .map(|_| {
            let cntlid = node.connect(0, |_| {}).expect("there is a free one");
            node.ended(cntlid, 0);
            cntlid
        })
        .collect();
    assert_eq!(got, [10, 11, 12, 10, 11, 12, 10]);
    // Whatever others get in between.
    let other = Nqn::new("nqn.2026-01.test:other").unwrap();
    let change = Change::AddSubsystem(Subsystem {
        nqn: other.as_str().into(),
        serial: "2".into(),
        model: "test".into(),
        cntlids: (20, 21),
        allow: None,
        namespaces: Default::default(),
    });
    node.control.change(change).expect("it fits");
    node.drain();
    let mut got = Vec::new();
    for _ in 0..3 {
        for subnqn in [Nqn::new(NQN).unwrap(), other] {
            let cntlid = node.connect(0, |request| request.subnqn = subnqn);
            let cntlid = cntlid.expect("there is a free one");
            node.ended(cntlid, 0);
            got.push(cntlid);
        }
    }
    assert_eq!(got, [11, 20, 12, 21, 10, 20]);
}

#[test]
fn discovery_takes_no_number_that_a_subsystem_needs() {
    let mut node = Node::new(1);
    let discovery = Nqn::new(DISCOVERY_NQN).unwrap();
    for cntlid in [0xFFEF, 0xFFEE, 0xFFED] {
        let got = node.connect(0, |request| request.subnqn = discovery);
        assert_eq!(got, Ok(cntlid));
    }
    assert_eq!(node.connect(0, |_| {}), Ok(10));
    // Where subsystems have them all, those that they come to last.
    let change = Change::AddSubsystem(Subsystem {
        nqn: "nqn.2026-01.test:all".into(),
        serial: "2".into(),
        model: "test".into(),
        cntlids: (1, 0xFFEF),
        allow: None,
        namespaces: Default::default(),
    });
    node.control.change(change).expect("it fits");
    node.drain();
    let got = node.connect(0, |request| request.subnqn = discovery);
    assert_eq!(got, Ok(0xFFEC));
}

#[test]
fn refusals_name_what_was_wrong() {
    let mut node = Node::new(1);
    let other = Nqn::new("nqn.2026-01.test:nobody").unwrap();
    let refused = node.connect(0, |request| request.subnqn = other);
    assert_eq!(refused, invalid(ConnectRefusal::SUBNQN));
    let refused = node.connect(0, |request| request.cntlid = 10);
    assert_eq!(refused, invalid(ConnectRefusal::CNTLID));

    let cntlid = node.controller(0);
    // It may be tried again, by a new association: the node may have been started anew meanwhile.
    let unknown = node.connect(0, io(cntlid + 1, 1)).unwrap_err();
    assert_eq!(unknown.status, Status::CONNECT_INVALID_PARAMETERS);
    assert_eq!(unknown.dw0, ConnectRefusal::CNTLID.dw0());
    let refused = node.connect(0, |request| {
        io(cntlid, 1)(request);
        request.hostid = [8; 16];
    });
    assert_eq!(refused, invalid(ConnectRefusal::HOSTID));
    let refused = node.connect(0, |request| {
        io(cntlid, 1)(request);
        request.hostnqn = other;
    });
    assert_eq!(refused, invalid(ConnectRefusal::HOSTNQN));
    assert_eq!(node.connect(0, io(cntlid, 1)), Ok(cntlid));
    node.began(cntlid, 1);
    let twice = node.connect(0, io(cntlid, 1)).unwrap_err();
    assert_eq!(twice.status, Status::INVALID_QUEUE_IDENTIFIER.dnr());
    // For an I/O queue HOSTID may be left out, HOSTNQN not.
    let nobody = node.connect(0, |request| {
        io(cntlid, 2)(request);
        request.hostid = [0; 16];
        request.hostnqn = other;
    });
    assert_eq!(nobody, invalid(ConnectRefusal::HOSTNQN));
    let without = node.connect(0, |request| {
        io(cntlid, 2)(request);
        request.hostid = [0; 16];
    });
    assert_eq!(without, Ok(cntlid));
}

#[test]
fn io_queues_wait_for_ready() {
    let mut node = Node::new(1);
    let cntlid = node.connect(0, |_| {}).unwrap();
    let early = node.connect(0, io(cntlid, 1)).unwrap_err();
    assert_eq!(early, invalid(ConnectRefusal::QID).unwrap_err());
}

#[test]
fn discovery_has_no_io_queues() {
    let mut node = Node::new(1);
    let discovery = Nqn::new(DISCOVERY_NQN).unwrap();
    assert!(
        node.connect(0, |request| request.subnqn = discovery)
            .is_ok()
    );
    let refused = node.connect(0, |request| {
        io(1, 1)(request);
        request.subnqn = discovery;
    });
    assert_eq!(refused, invalid(ConnectRefusal::QID));
}

#[test]
fn hosts_that_are_not_allowed_stay_out_and_go_when_forbidden() {
    let mut node = Node::new(2);
    let cntlid = node.controller(1);
    let hosts = Some(BTreeSet::from(["nqn.2026-01.test:friend".to_owned()]));
    node.control
        .change(Change::Allow {
            nqn: NQN.into(),
            hosts,
        })
        .unwrap();
    let ends = node.mail(1).into_iter().any(
        |mail| matches!(mail, ToCore::EndController { cntlid: at, keep_admin: false } if at == cntlid),
    );
    assert!(ends, "a host that is forbidden is disconnected");
    let refused = node.connect(0, |_| {}).unwrap_err();
    assert_eq!(refused.status, Status::CONNECT_INVALID_HOST.dnr());
}

#[test]
fn a_new_queue_waits_for_the_dead_associations_commands() {
    let mut node = Node::new(2);
    let old = node.controller(0);
    assert_eq!(node.connect(1, io(old, 1)), Ok(old));
    node.control
        .on_mail(ToControl::ControllerEnding { cntlid: old }, node.now);
    node.ended(old, 0);
    // The old I/O queue has a write at the drive still.
    let new = node.controller(0);
    let queue = node.ask(0, io(new, 1));
    assert_eq!(node.admission(0, queue), None, "it waits");
    node.ended(old, 1);
    assert_eq!(node.admission(0, queue), Some(Ok(new)));
}

#[test]
fn waiting_for_dead_commands_has_a_bound() {
    let mut node = Node::new(1);
    let old = node.controller(0);
    assert_eq!(node.connect(0, io(old, 1)), Ok(old));
    node.control
        .on_mail(ToControl::ControllerEnding { cntlid: old }, node.now);
    let new = node.controller(0);
    let queue = node.ask(0, io(new, 1));
    node.now = node.now.plus_ms(limits::STALE_WAIT_MS);
    node.control.on_time(node.now);
    let refused = node
        .admission(0, queue)
        .expect("the bound is over")
        .unwrap_err();
    assert_eq!(
        refused.status,
        Status::CONNECT_CONTROLLER_BUSY,
        "without DNR: try again"
    );
}

#[test]
fn another_hosts_queue_does_not_wait() {
    let mut node = Node::new(1);
    let old = node.controller(0);
    assert_eq!(node.connect(0, io(old, 1)), Ok(old));
    node.control
        .on_mail(ToControl::ControllerEnding { cntlid: old }, node.now);
    let other = node.connect(0, |request| request.hostid = [9; 16]).unwrap();
    let hosts = node.control.hosts();
    hosts
        .iter()
        .find(|host| host.who.cntlid == other)
        .unwrap()
        .who
        .set_ready(true);
    let admitted = node.connect(0, |request| {
        io(other, 1)(request);
        request.hostid = [9; 16];
    });
    assert_eq!(admitted, Ok(other));
}

#[test]
fn a_reset_is_done_when_the_io_queues_are_gone() {
    let mut node = Node::new(2);
    let cntlid = node.controller(0);
    assert_eq!(node.connect(1, io(cntlid, 1)), Ok(cntlid));
    node.control
        .on_mail(ToControl::Resetting { cntlid }, node.now);
    let done = |mail: Vec<Mail>| {
        mail.iter()
            .any(|mail| matches!(mail, ToCore::ResetDone { .. }))
    };
    assert!(!done(node.mail(0)));
    let told = node.mail(1).into_iter().any(
        |mail| matches!(mail, ToCore::EndController { keep_admin: true, cntlid: at } if at == cntlid),
    );
    assert!(told);
    node.ended(cntlid, 1);
    assert!(done(node.mail(0)));
}

fn drive() -> DriveInfo {
    DriveInfo {
        label: "ram:1MiB".into(),
        block_len: 4096,
        blocks: 256,
        uuid: [1; 16],
        nguid: [2; 16],
        read_only: false,
        volatile_cache: false,
        brings_memory: true,
        preferred_blocks: 1,
        deallocates: true,
        max_deallocate: 1 << 20,
        max_transfer: limits::CHUNK_LEN,
        max_bufs: 33,
        health: None,
    }
}

fn add(node: &mut Node, nsid: Option<u32>) -> Result<DriveId, ChangeError> {
    let drive_id = node.control.next_drive();
    let queues = vec![(); node.cores.len()];
    node.control.change(Change::AddNamespace {
        nqn: NQN.into(),
        nsid,
        info: drive(),
        read_only: false,
        drive: drive_id,
        queues,
    })?;
    Ok(drive_id)
}

#[test]
fn a_change_is_done_when_every_core_has_drained_and_a_drive_goes_last() {
    let mut node = Node::new(2);
    while node.control.finished().is_some() {}
    let id = add(&mut node, None).unwrap();
    node.drain();
    assert!(node.control.finished().is_some());
    let change = Change::RemoveNamespace {
        nqn: NQN.into(),
        nsid: 1,
    };
    let change = node.control.change(change).unwrap();
    node.drain_core(0);
    assert_eq!(
        node.control.finished(),
        None,
        "core 1 has commands of the old table"
    );
    let gone = |mail: &[Mail]| {
        mail.iter()
            .any(|mail| matches!(mail, ToCore::RemoveDrive(at) if *at == id))
    };
    assert!(!gone(&node.mail(0)), "its drive stays until then");
    node.drain_core(1);
    assert_eq!(node.control.finished(), Some(change));
    assert!(gone(&node.mail(0)) && gone(&node.mail(1)));
}

#[test]
fn writes_are_refused_and_taken_again_by_the_drive_that_is_there() {
    let mut node = Node::new(1);
    let id = add(&mut node, None).unwrap();
    for read_only in [true, false] {
        let change = Change::ReadOnly {
            nqn: NQN.into(),
            nsid: 1,
            read_only,
        };
        node.control.change(change).unwrap();
        let namespace = &node.control.planned().subsystems[NQN].namespaces[&1];
        assert_eq!((namespace.drive, namespace.read_only), (id, read_only));
    }
}

#[test]
fn changes_go_one_after_the_other_and_see_those_before_them() {
    let mut node = Node::new(1);
    add(&mut node, Some(3)).unwrap();
    assert_eq!(
        add(&mut node, Some(3)),
        Err(ChangeError::NamespaceExists(3))
    );
    add(&mut node, None).unwrap();
    let tables = |node: &mut Node| {
        let mail = node.mail(0);
        mail.iter()
            .filter(|mail| matches!(mail, ToCore::Table(_)))
            .count()
    };
    assert_eq!(
        tables(&mut node),
        1,
        "the second waits for the first to drain"
    );
    assert_eq!(node.control.planned().subsystems[NQN].namespaces.len(), 2);
    assert_eq!(node.control.table().subsystems[NQN].namespaces.len(), 1);
}

#[test]
fn impossible_changes_are_refused_and_change_nothing() {
    let mut node = Node::new(1);
    let nqn = || NQN.to_owned();
    let nowhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let refusals = [
        (
            Change::RemoveNamespace {
                nqn: nqn(),
                nsid: 9,
            },
            ChangeError::NoNamespace(9),
        ),
        (
            Change::Resize {
                nqn: nqn(),
                nsid: 9,
                blocks: 1,
            },
            ChangeError::NoNamespace(9),
        ),
        (
            Change::RemoveListener(Transport::Tcp, nowhere),
            ChangeError::NoListener(nowhere),
        ),
        (
            Change::Allow {
                nqn: "nqn.x:y".into(),
                hosts: None,
            },
            ChangeError::NoSubsystem("nqn.x:y".into()),
        ),
    ];
    let before = node.control.planned().epoch;
    for (change, error) in refusals {
        assert_eq!(node.control.change(change), Err(error));
    }
    assert_eq!(add(&mut node, Some(0)), Err(ChangeError::BadNsid(0)));
    let beyond = limits::NAMESPACES_MAX + 1;
    assert_eq!(
        add(&mut node, Some(beyond)),
        Err(ChangeError::BadNsid(beyond))
    );
    assert_eq!(node.control.planned().epoch, before);
}

#[test]
fn mail_that_does_not_fit_goes_later_in_order() {
    let mut node = Node::new(1);
    for _ in 0..200 {
        node.ask(0, |request| request.cntlid = 5);
    }
    assert!(
        node.control.next_timeout().is_some(),
        "there is more to send"
    );
    let mut got = 0;
    while node.control.next_timeout().is_some() || !node.cores[0].is_empty() {
        for mail in node.mail(0) {
            let ToCore::Admit { queue, .. } = mail else {
                continue;
            };
            assert_eq!(queue.slot, got);
            got += 1;
        }
        node.control.on_time(node.now);
    }
    assert_eq!(got, 200);
}

#[test]
fn while_stopping_nobody_is_admitted_and_nothing_changes() {
    let mut node = Node::new(1);
    let cntlid = node.controller(0);
    node.control.stop();
    let refused = node.connect(0, io(cntlid, 1)).unwrap_err();
    assert_eq!(refused.status, Status::CONNECT_CONTROLLER_BUSY);
    assert_eq!(add(&mut node, None), Err(ChangeError::Stopping));
    // Its queues end by themselves, when they are done.
    node.control
        .on_mail(ToControl::ControllerEnding { cntlid }, node.now);
    assert!(
        !node
            .mail(0)
            .iter()
            .any(|mail| matches!(mail, ToCore::EndController { .. }))
    );
    node.control
        .on_mail(ToControl::Stopped { core: 0 }, node.now);
    assert!(node.control.is_stopped());
}

#[test]
fn hosts_are_told_when_every_core_has_the_table() {
    let mut node = Node::new(2);
    (0..2).for_each(|core| drop(node.mail(core)));
    let change = Change::Allow {
        nqn: NQN.into(),
        hosts: None,
    };
    node.control.change(change).expect("it fits");
    let tells = |mail: Vec<Mail>| mail.iter().any(|mail| matches!(mail, ToCore::Tell { .. }));
    assert!(!tells(node.mail(0)));
    let version = node.control.table().version;
    let now = node.now;
    let has = |core| ToControl::HasTable { core, version };
    node.control.on_mail(has(0), now);
    assert!(!tells(node.mail(0)), "the other core has not said so");
    node.mail(1);
    node.control.on_mail(has(1), now);
    assert!(tells(node.mail(0)) && tells(node.mail(1)));
    // It is told once.
    node.control.on_mail(has(1), now);
    assert!(!tells(node.mail(0)) && !tells(node.mail(1)));
}

#[test]
fn who_may_connect_and_where_changes_whatever_a_drive_takes() {
    let mut node = Node::new(2);
    let cntlid = node.controller(1);
    while node.control.finished().is_some() {}
    // The first waits for commands at a drive, the second for the first.
    add(&mut node, None).unwrap();
    add(&mut node, None).unwrap();
    (0..2).for_each(|core| drop(node.mail(core)));
    let listener = Listener {
        transport: Transport::Tcp,
        address: "127.0.0.1:4421".parse().unwrap(),
        port_id: 2,
    };
    let hosts = Some(BTreeSet::from(["nqn.2026-01.test:other".to_owned()]));
    let generation = node.control.table().generation;
    let changes = [
        Change::Allow {
            nqn: NQN.into(),
            hosts: hosts.clone(),
        },
        Change::AddListener(listener),
        // With namespaces it would be a change of drives.
        Change::AddSubsystem(Subsystem {
            nqn: "nqn.2026-01.test:new".into(),
            namespaces: Default::default(),
            ..(*node.control.table().subsystems[NQN]).clone()
        }),
    ];
    let changes = changes.map(|change| node.control.change(change).expect("it fits"));
    let forbidden =
        |mail: &Mail| matches!(mail, ToCore::EndController { cntlid: of, .. } if *of == cntlid);
    let mail = node.mail(1);
    assert!(mail.iter().any(forbidden));
    let table = node.control.table();
    assert_eq!(table.subsystems[NQN].allow, hosts);
    assert_eq!(table.subsystems.len(), 2);
    assert_eq!(table.listeners.len(), 1);
    assert_eq!(table.generation, generation + 3);
    assert_eq!(table.subsystems[NQN].namespaces.len(), 1);
    // Done when all cores have it, each for itself.
    let version = table.version;
    assert_eq!(node.control.finished(), None);
    for (core, version) in [(0, version), (1, version - 1)] {
        let has = ToControl::HasTable { core, version };
        node.control.on_mail(has, node.now);
    }
    assert_eq!(node.control.finished(), Some(changes[0]));
    assert_eq!(node.control.finished(), Some(changes[1]));
    assert_eq!(node.control.finished(), None);
    node.drain();
    let epoch = node.control.table().epoch;
    for core in 0..2 {
        let drained = ToControl::Drained { core, epoch };
        node.control.on_mail(drained, node.now);
    }
    // What was planned before has it as well.
    node.drain();
    let table = node.control.table();
    assert_eq!(table.subsystems[NQN].namespaces.len(), 2);
    assert_eq!(table.subsystems[NQN].allow, hosts);
    assert_eq!(table.subsystems.len(), 2);
    assert_eq!(table.listeners.len(), 1);
    assert_eq!(table.generation, generation + 3);
}

#[test]
fn a_queue_waits_for_what_a_lost_one_of_the_same_association_left_at_a_drive() {
    for qid in [1, 2] {
        let mut node = Node::new(2);
        let cntlid = node.controller(0);
        assert_eq!(node.connect(1, io(cntlid, 1)), Ok(cntlid));
        let ending = ToControl::QueueEnding { cntlid, qid: 1 };
        node.control.on_mail(ending, node.now);
        let waiting = node.ask(0, io(cntlid, qid));
        assert_eq!(node.admission(0, waiting), None);
        // Another host's queue does not.
        let other = node.connect(0, |request| {
            request.hostnqn = Nqn::new("nqn.2026-01.test:other").unwrap();
        });
        assert!(other.is_ok());
        node.ended(cntlid, 1);
        assert_eq!(node.admission(0, waiting), Some(Ok(cntlid)));
    }
}

#[test]
fn who_asks_again_for_a_queue_is_not_kept_out_by_its_first_try() {
    let mut node = Node::new(1);
    let cntlid = node.controller(0);
    assert_eq!(node.connect(0, io(cntlid, 1)), Ok(cntlid));
    let ending = ToControl::QueueEnding { cntlid, qid: 1 };
    node.control.on_mail(ending, node.now);
    let first = node.ask(0, io(cntlid, 1));
    let second = node.ask(0, io(cntlid, 1));
    let refused = node
        .admission(0, first)
        .expect("it is answered")
        .unwrap_err();
    assert_eq!(refused.status, Status::CONNECT_CONTROLLER_BUSY);
    node.ended(cntlid, 1);
    assert_eq!(node.admission(0, second), Some(Ok(cntlid)));
}

#[test]
fn who_lost_a_connection_before_its_admission_was_heard_of_may_ask_again() {
    let mut node = Node::new(2);
    let cntlid = node.controller(0);
    assert_eq!(node.connect(0, io(cntlid, 1)), Ok(cntlid));
    let early = node.connect(1, io(cntlid, 1)).unwrap_err();
    assert_eq!(early.status, Status::CONNECT_CONTROLLER_BUSY);
    // The core found nobody there.
    node.ended(cntlid, 1);
    assert_eq!(node.connect(1, io(cntlid, 1)), Ok(cntlid));
    // This one it did, until that ends.
    node.began(cntlid, 1);
    let twice = node.connect(0, io(cntlid, 1)).unwrap_err();
    assert_eq!(twice.status, Status::INVALID_QUEUE_IDENTIFIER.dnr());
    node.ended(cntlid, 1);
    assert_eq!(node.connect(0, io(cntlid, 1)), Ok(cntlid));
    let early = node.connect(1, io(cntlid, 1)).unwrap_err();
    assert_eq!(early.status, Status::CONNECT_CONTROLLER_BUSY);
}
