//! The host library over real sockets, against a target that does what it is told.

mod common;
mod peer;

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use common::Patience;
use ferroce_engine::host as nvme;
use ferroce_transport::host::{
    Backoff, Controller, Data, HostError, HostIdentity, Options, Queue, RefusedWhy, discover,
};
use ferroce_wire::cqe::Cqe;
use ferroce_wire::fabrics::{ConnectRefusal, Nqn};
use ferroce_wire::feature::AsyncEvent;
use ferroce_wire::opcode::AdminOpcode;
use ferroce_wire::status::Status;
use peer::{BLOCK, BLOCKS, Peer, Script};

fn options() -> Options {
    Options {
        identity: HostIdentity::random(),
        timeout: Duration::from_secs(5),
        ..Options::default()
    }
}

fn nqn() -> Nqn {
    Nqn::new("nqn.2014-08.org.example:test").unwrap()
}

fn connect(peer: &Peer, options: &Options) -> Result<Controller, HostError> {
    Controller::connect(peer.address, &nqn(), options)
}

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + seed + i / 256) as u8).collect()
}

/// Polls until so many commands are completed.
fn drain(queue: &mut Queue, count: usize) -> Vec<ferroce_transport::host::Completion> {
    let mut done = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while done.len() < count {
        match queue.poll() {
            Some(completion) => done.push(completion),
            None => {
                assert!(Instant::now() < deadline, "{:?}", queue.error());
                queue.wait(Duration::from_millis(100));
            }
        }
    }
    done
}

#[test]
fn a_controller_is_enabled_and_described() {
    let peer = Peer::start(Script::default());
    let controller = connect(&peer, &options()).unwrap();
    assert_eq!(controller.cntlid(), 17);
    assert_eq!(controller.identify().model(), b"Scripted");
    assert_eq!(controller.transfer_max(), Some(128 * 1024));
    let namespaces = controller.namespaces().unwrap();
    assert_eq!(namespaces.len(), 2);
    let second = &namespaces[1];
    assert_eq!(
        (second.nsid, second.blocks, second.block_len),
        (7, BLOCKS as u64, 512)
    );
    assert_eq!((second.uuid, second.nguid), ([7; 16], [0x11; 16]));
    assert!(second.read_only && !namespaces[0].read_only);
    assert!(controller.namespace(2).unwrap().is_none());
    controller.shutdown().unwrap();
    assert_eq!(peer.state.lock().unwrap().shutdowns, 1);
}

#[test]
fn what_is_written_is_read_with_every_digest_size_and_flow_control() {
    for dgst in 0..4u8 {
        for (flow_control, counts_heads) in [(false, false), (false, true), (true, true)] {
            let peer = Peer::start(Script {
                counts_heads,
                ..Script::default()
            });
            let options = Options {
                header_digest: dgst & 1 != 0,
                data_digest: dgst & 2 != 0,
                sq_flow_control: flow_control,
                ..options()
            };
            let controller = connect(&peer, &options).unwrap();
            let mut queue = controller.queues(1, 16).unwrap().remove(0);
            for len in [512, 4096, 8192, 8704, 65536, 131072] {
                let data = pattern(len, len);
                let blocks = (len / BLOCK) as u32;
                let sqe = nvme::write(1, 3, blocks, false);
                queue.submit(sqe, data.clone().into(), 1).unwrap();
                let done = drain(&mut queue, 1).remove(0);
                assert!(done.is_success() && done.data.bytes() == data);
                queue
                    .submit(nvme::read(1, 3, blocks), Data::zeroed(len), 2)
                    .unwrap();
                let done = drain(&mut queue, 1).remove(0);
                assert!(done.is_success() && done.user_data == 2);
                assert!(done.data.bytes() == data, "{len} bytes, digests {dgst}");
                queue
                    .submit(nvme::read(1, 3, blocks), Data::Discard(len as u32), 3)
                    .unwrap();
                assert!(drain(&mut queue, 1)[0].is_success());
            }
            queue
                .submit(nvme::read(1, BLOCKS as u64, 1), Data::zeroed(512), 4)
                .unwrap();
            let status = drain(&mut queue, 1)[0].status();
            assert_eq!(status, Status::LBA_OUT_OF_RANGE.dnr());
        }
    }
}

#[test]
fn many_commands_are_outstanding_on_several_queues() {
    let peer = Peer::start(Script {
        granted: 3,
        ..Script::default()
    });
    let controller = connect(&peer, &options()).unwrap();
    let queues = controller.queues(8, 1000).unwrap();
    assert_eq!(queues.len(), 3, "as many as were granted");
    let threads: Vec<_> = queues
        .into_iter()
        .map(|mut queue| {
            std::thread::spawn(move || {
                assert_eq!(queue.depth(), 64, "as many as MAXCMD says");
                let (mut submitted, mut completed) = (0u64, 0);
                while completed < 20_000 {
                    while submitted < 20_000 {
                        let sqe = nvme::read(1, submitted % 4000, 8);
                        match queue.submit(sqe, Data::Discard(4096), submitted) {
                            Ok(_) => submitted += 1,
                            Err(refused) => {
                                assert_eq!(refused.why, RefusedWhy::Full);
                                break;
                            }
                        }
                    }
                    completed += drain(&mut queue, 1).len();
                }
                assert_eq!(queue.outstanding(), 0);
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let connects = peer.state.lock().unwrap().connects.clone();
    assert!(connects.contains(&(0, 32)) && connects.contains(&(3, 65)));
}

#[test]
fn discovery_reads_a_log_that_changes_and_leaves_out_nonsense() {
    let peer = Peer::start(Script {
        generations: [1, 2, 2, 3].into(),
        ..Script::default()
    });
    let log = discover(peer.address, &options()).unwrap();
    assert_eq!(log.entries.len(), 70);
    assert!(log.generation == 2 || log.generation == 3);
    let subsystems: Vec<_> = log.subsystems().collect();
    assert_eq!(subsystems.len(), 67);
    assert_eq!(subsystems[0].nqn.as_str(), "nqn.2014-08.org.example:1");
    assert_eq!(subsystems[0].address.to_string(), "192.0.2.1:4420");
    let endless = Peer::start(Script {
        generations: (0..100).collect(),
        ..Script::default()
    });
    let error = discover(endless.address, &options()).unwrap_err();
    assert!(matches!(error, HostError::Nonsense { .. }), "{error}");
}

#[test]
fn events_are_told_and_asked_for_again() {
    let peer = Peer::start(Script::default());
    let controller = connect(&peer, &options()).unwrap();
    for round in 0..10 {
        let event = if round % 2 == 0 {
            AsyncEvent::NAMESPACE_CHANGED
        } else {
            AsyncEvent::DISCOVERY_CHANGED
        };
        peer.state.lock().unwrap().events.push_back(event);
        assert_eq!(controller.changed_namespaces().unwrap(), Some(vec![7]));
        assert_eq!(controller.next_event().unwrap(), Some(event));
        assert_eq!(controller.next_event().unwrap(), None);
    }
}

#[test]
fn keep_alives_are_sent_in_the_background() {
    let peer = Peer::start(Script::default());
    let options = Options {
        kato_ms: 200,
        ..options()
    };
    let begin = Instant::now();
    let controller = connect(&peer, &options).unwrap();
    let patience = Patience::begin();
    while peer.state.lock().unwrap().keep_alives < 5 {
        assert!(controller.error().is_none());
        patience.holds("five Keep Alives");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Not without a pause either: at most four in each KATO.
    let passed = begin.elapsed();
    assert!(passed >= Duration::from_millis(200), "{passed:?}");
}

#[test]
fn a_target_that_does_not_answer_keep_alives_is_given_up() {
    let peer = Peer::start(Script {
        silent: vec![AdminOpcode::KEEP_ALIVE],
        ..Script::default()
    });
    let options = Options {
        kato_ms: 200,
        ..options()
    };
    let controller = connect(&peer, &options).unwrap();
    let patience = Patience::begin();
    let error = loop {
        if let Some(error) = controller.error() {
            break error;
        }
        patience.holds("the end of the association");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(matches!(error, HostError::Timeout { .. }), "{error}");
    assert!(error.is_transient());
}

#[test]
fn a_lost_connection_completes_every_command() {
    let peer = Peer::start(Script::default());
    let controller = connect(&peer, &options()).unwrap();
    let mut queue = controller.queues(1, 64).unwrap().remove(0);
    peer.state.lock().unwrap().cut_in = Some(5);
    for i in 0..40 {
        queue
            .submit(nvme::read(1, i, 1), Data::zeroed(512), i)
            .unwrap();
    }
    let done = drain(&mut queue, 40);
    let mut seen: Vec<u64> = done.iter().map(|done| done.user_data).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..40).collect::<Vec<_>>());
    assert!(done.iter().all(|done| done.data.len() == 512));
    let lost = done
        .iter()
        .filter(|done| done.status() == Status::HOST_PATHING_ERROR);
    assert_eq!(lost.count(), 36);
    assert!(queue.error().unwrap().is_transient());
    let refused = queue.submit(nvme::flush(1), Data::None, 0).unwrap_err();
    assert_eq!(refused.why, RefusedWhy::Dead);
    assert!(queue.poll().is_none());
}

#[test]
fn reconnecting_brings_the_queues_back() {
    let peer = Peer::start(Script::default());
    let mut controller = connect(&peer, &options()).unwrap();
    let mut queues = controller.queues(2, 16).unwrap();
    peer.cut();
    queues[0].submit(nvme::flush(1), Data::None, 9).unwrap();
    assert!(!drain(&mut queues[0], 1)[0].is_success());
    drop(queues);
    // Twice it is busy, then it is there again.
    let busy = Cqe::new(0, Status::CONNECT_CONTROLLER_BUSY);
    peer.state.lock().unwrap().script.refuse = Some((1, busy));
    let state = peer.state.clone();
    let healer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        state.lock().unwrap().script.refuse = None;
    });
    let stop = AtomicBool::new(false);
    let mut queues = controller.reconnect(&Backoff::default(), &stop).unwrap();
    healer.join().unwrap();
    assert_eq!(queues.len(), 2);
    queues[1].submit(nvme::flush(1), Data::None, 9).unwrap();
    assert!(drain(&mut queues[1], 1)[0].is_success());
    assert!(controller.error().is_none());
    // What time does not mend is not tried for long.
    peer.cut();
    let refused = Cqe::new(0, Status::CONNECT_INVALID_HOST.dnr());
    peer.state.lock().unwrap().script.refuse = Some((0, refused));
    let start = Instant::now();
    let error = controller
        .reconnect(&Backoff::default(), &stop)
        .unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(2) && !error.is_transient());
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let error = controller
        .reconnect(&Backoff::default(), &stop)
        .unwrap_err();
    assert!(matches!(error, HostError::Stopped));
}

#[test]
fn refusals_say_what_to_do() {
    let says = |cqe: Cqe, text: &str| {
        let peer = Peer::start(Script {
            refuse: Some((0, cqe)),
            ..Script::default()
        });
        let error = connect(&peer, &options()).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    says(
        Cqe::new(0, Status::CONNECT_INVALID_HOST.dnr()),
        "allow nqn.2014-08.org.nvmexpress:uuid:",
    );
    let wrong = |what: ConnectRefusal| {
        Cqe::new(0, Status::CONNECT_INVALID_PARAMETERS.dnr()).with_dw0(what.dw0())
    };
    says(wrong(ConnectRefusal::SUBNQN), "no subsystem of that name");
    says(wrong(ConnectRefusal::Sqe(46)), "attributes");
    says(wrong(ConnectRefusal::Data(99)), "byte 99");
    says(Cqe::new(0, Status::CONNECT_CONTROLLER_BUSY), "try again");
    says(Cqe::new(0, Status::INTERNAL_ERROR), "Internal Error");
    let required = Cqe::new(0, Status::SUCCESS).with_dw0(2 << 16 | 5);
    says(required, "requires authentication");

    let refused = Cqe::new(0, Status::CONNECT_INVALID_PARAMETERS.dnr());
    let peer = Peer::start(Script {
        refuse: Some((2, refused.with_dw0(ConnectRefusal::QID.dw0()))),
        ..Script::default()
    });
    let controller = connect(&peer, &options()).unwrap();
    let error = controller.queues(2, 4).unwrap_err().to_string();
    assert!(
        error.contains("I/O queue 2") && error.contains("too many"),
        "{error}"
    );
}

#[test]
fn whoever_is_no_target_is_recognised() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let error = Controller::connect(address, &nqn(), &options()).unwrap_err();
    assert!(matches!(error, HostError::Unreachable { .. }));
    assert!(
        error.to_string().contains("nothing listens there"),
        "{error}"
    );

    let http = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n".to_vec();
    for (garbage, text) in [
        (http, "HTTP/1.1"),
        (Vec::new(), "closed the connection"),
        (
            vec![0x15, 3, 3, 0, 2, 2, 10, 0],
            "does not answer as an NVMe/TCP target",
        ),
    ] {
        let peer = Peer::start(Script {
            garbage: Some(garbage),
            ..Script::default()
        });
        let error = connect(&peer, &options()).unwrap_err();
        assert!(matches!(error, HostError::NotNvmeTcp { .. }), "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }

    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let quick = Options {
        timeout: Duration::from_millis(200),
        ..options()
    };
    let error = Controller::connect(silent.local_addr().unwrap(), &nqn(), &quick).unwrap_err();
    assert!(error.to_string().contains("no ICResp from"), "{error}");
}

#[test]
fn digests_that_are_not_turned_on_are_an_error() {
    let peer = Peer::start(Script {
        dgst: 1,
        ..Script::default()
    });
    let both = Options {
        header_digest: true,
        data_digest: true,
        ..options()
    };
    let error = connect(&peer, &both).unwrap_err();
    assert!(matches!(error, HostError::NoDigests { .. }));
}

#[test]
fn an_admin_command_without_an_answer_is_a_timeout() {
    let peer = Peer::start(Script {
        silent: vec![AdminOpcode::GET_LOG_PAGE],
        ..Script::default()
    });
    let quick = Options {
        timeout: Duration::from_millis(300),
        ..options()
    };
    let controller = connect(&peer, &quick).unwrap();
    let error = controller.changed_namespaces().unwrap_err();
    assert!(
        error.to_string().contains("no Get Log Page from"),
        "{error}"
    );
    assert!(
        controller.error().is_some(),
        "its memory is gone, so the connection is"
    );
}

#[test]
fn a_target_that_lies_is_told_so_and_left() {
    let peer = Peer::start(Script {
        lies: true,
        ..Script::default()
    });
    let controller = connect(&peer, &options()).unwrap();
    let mut queue = controller.queues(1, 4).unwrap().remove(0);
    queue
        .submit(nvme::read(1, 0, 1), Data::zeroed(512), 1)
        .unwrap();
    queue.submit(nvme::flush(1), Data::None, 2).unwrap();
    let done = drain(&mut queue, 2);
    assert!(done[0].is_success());
    assert_eq!(done[1].status(), Status::HOST_PATHING_ERROR);
    let error = queue.error().unwrap().to_string();
    assert!(
        error.contains("there is no such command; received CapsuleResp"),
        "{error}"
    );
    let deadline = Instant::now() + Duration::from_secs(5);
    while peer.state.lock().unwrap().terms == 0 {
        assert!(Instant::now() < deadline, "no H2CTermReq came");
        std::thread::sleep(Duration::from_millis(5));
    }
    // The other queues are none the worse.
    assert!(controller.namespaces().is_ok());
}
