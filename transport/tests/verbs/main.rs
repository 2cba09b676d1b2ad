//! The two ends of a connection over an RDMA device, one provider each. The address of a device comes in FERROCE_RDMA: the
//! lab's scenario `verbs-self` sets it. Without it, this machine most often has none, and the tests ask whether that is
//! understood.
#![cfg(feature = "verbs")]

mod bench;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferroce_buf::{BufList, Class, Home, Pool, Region, Want};
use ferroce_engine::host as nvme;
use ferroce_transport::rdma::provider::{
    Access, Answer, Demand, Event, HEAD_LEN, Limits, Message, Provider, QpId, REJ_CONSUMER, Read,
    Remote, WcStatus, Why,
};
use ferroce_transport::rdma::verbs::{Options, Verbs};
use ferroce_transport::sys::{Epoll, Events};
use ferroce_wire::Wire;
use ferroce_wire::rdma::{RdmaCmReject, RdmaCmRequest};
use ferroce_wire::sqe::KeyedSgl;

use bench::*;

#[test]
fn messages_writes_and_reads_arrive() {
    let Some(mut bench) = bench(18515) else {
        return;
    };
    let [host, target] = bench.pair();
    let Limits {
        reads, invalidate, ..
    } = bench.ends[TARGET].provider.limits(target);
    assert!(reads > 0 && invalidate);

    // A command with data behind it.
    let content = pattern(1, PAGE);
    let bufs = bench.pages(&content);
    let head = [0xAB; HEAD_LEN];
    bench.ends[HOST]
        .provider
        .send(host, Message { tag: 7, head, bufs });
    match bench.next(TARGET) {
        Event::Received {
            qp,
            len,
            head: came,
            buf: Some(buf),
            invalidated: None,
        } => {
            assert_eq!((qp, len as usize, came), (target, HEAD_LEN + PAGE, head));
            assert!(buf.bytes() == content);
            bench.ends[TARGET].provider.post_recv(target, Some(buf));
        }
        event => panic!("{event:?}"),
    }
    assert_eq!(bench.sent(HOST, 7), WcStatus::Success);

    for round in 0..20u8 {
        // Data of many pieces for the host, and its key taken away with the answer.
        let len = [1, 2, 17, 32][usize::from(round) % 4] * PAGE;
        let content = pattern(round, len);
        let remote = bench.grant(host, &vec![0; len], Access::Write);
        let tag = u32::from(round);
        bench.answer(target, tag, Some((remote, &content)), Some(remote.key));
        assert_eq!(bench.response(host, tag), Some(remote.key));
        assert_eq!(bench.sent(TARGET, tag), WcStatus::Success);
        assert!(bench.revoke(host, remote.key) == content);

        // Data of the host's, and the key left to the host to take back.
        let content = pattern(round ^ 0xFF, len);
        let remote = bench.grant(host, &content, Access::Read);
        let bufs = bench.pages(&vec![0; len]);
        bench.ends[TARGET]
            .provider
            .read(target, Read { tag, remote, bufs });
        match bench.next(TARGET) {
            Event::ReadDone {
                tag: which,
                bufs,
                status: WcStatus::Success,
                ..
            } => {
                let mut came = vec![0; len];
                bufs.copy_out(0, &mut came);
                assert!(which == tag && came == content);
                bench.pool.put_all(bufs);
            }
            event => panic!("{event:?}"),
        }
        bench.answer(target, tag, None, None);
        assert_eq!(bench.response(host, tag), None);
        assert_eq!(bench.sent(TARGET, tag), WcStatus::Success);
        assert!(bench.revoke(host, remote.key) == content);
    }

    // A WRITE of nothing needs no key: the peer acknowledges it, and hears of nothing.
    let nothing = Answer {
        tag: 99,
        remote: Remote { addr: 0, key: 0 },
        bufs: BufList::new(),
        capsule: None,
        invalidate: None,
    };
    bench.ends[TARGET].provider.answer(target, nothing);
    assert_eq!(bench.sent(TARGET, 99), WcStatus::Success);

    let now = bench.now();
    bench.ends[HOST].provider.close(host, now);
    assert_eq!(bench.gone([host, target]), [None, Some(Why::Peer)]);
    assert_eq!(bench.pool.out(), 0);
}

/// A message for which there is no RECV is tried again soon: not after the 655 ms that devices have by default, in which there
/// would be one attempt here.
#[test]
fn a_message_waits_for_a_recv_and_not_for_long() {
    let Some(mut bench) = bench(18525) else {
        return;
    };
    let [host, target] = bench.pair();
    let head = [0x5A; HEAD_LEN];
    let mut waiting = Vec::new();
    for tag in 0..RECVS {
        let bufs = BufList::new();
        let message = Message { tag, head, bufs };
        bench.ends[HOST].provider.send(host, message);
        match bench.next(TARGET) {
            Event::Received { buf: Some(buf), .. } => waiting.push(buf),
            event => panic!("{event:?}"),
        }
        assert_eq!(bench.sent(HOST, tag), WcStatus::Success);
    }
    let naks = |bench: &Bench| {
        let mut naks = 0;
        bench.verbs.each_device_counter(&mut |_, what, count| {
            naks += if what == "rnr_naks_sent" { count } else { 0 };
        });
        naks
    };
    // Not every device counts them; soft-RoCE does, and for it the figure has to be.
    let counts = bench.verbs.any_is_soft();
    let before = naks(&bench);
    let bufs = BufList::new();
    let message = Message { tag: 9, head, bufs };
    bench.ends[HOST].provider.send(host, message);
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        bench.turn();
    }
    let tried = naks(&bench) - before;
    assert!(
        tried >= 3 || !counts,
        "tried {tried} times in half a second"
    );
    for buf in waiting {
        bench.ends[TARGET].provider.post_recv(target, Some(buf));
    }
    match bench.next(TARGET) {
        Event::Received { buf: Some(buf), .. } => bench.pool.put(buf),
        event => panic!("{event:?}"),
    }
    assert_eq!(bench.sent(HOST, 9), WcStatus::Success);
    let now = bench.now();
    bench.ends[HOST].provider.close(host, now);
    bench.gone([host, target]);
}

#[test]
fn memory_that_was_taken_back_is_out_of_reach() {
    let Some(mut bench) = bench(18516) else {
        return;
    };
    for by_peer in [false, true] {
        let [host, target] = bench.pair();
        let remote = bench.grant(host, &[5; PAGE], Access::Write);
        if by_peer {
            bench.answer(target, 1, None, Some(remote.key));
            assert_eq!(bench.response(host, 1), Some(remote.key));
            assert_eq!(bench.sent(TARGET, 1), WcStatus::Success);
        }
        assert!(bench.revoke(host, remote.key) == [5; PAGE]);
        bench.answer(target, 2, Some((remote, &[6; PAGE])), None);
        let [at_host, at_target] = bench.gone([host, target]);
        assert_eq!(
            std::mem::take(&mut bench.statuses),
            [WcStatus::RemoteAccess]
        );
        assert_eq!(at_target, Some(Why::Error(WcStatus::RemoteAccess)));
        assert!(
            matches!(at_host, Some(Why::Peer | Why::Violation)),
            "{at_host:?}"
        );
        assert_eq!(bench.pool.out(), 0);
    }
    // What may be written may not be read.
    let [host, target] = bench.pair();
    let remote = bench.grant(host, &[5; PAGE], Access::Write);
    let bufs = bench.pages(&[0; PAGE]);
    let read = Read {
        tag: 3,
        remote,
        bufs,
    };
    bench.ends[TARGET].provider.read(target, read);
    loop {
        match bench.next(TARGET) {
            Event::ReadDone { bufs, status, .. } => {
                assert_eq!(status, WcStatus::RemoteAccess);
                bench.pool.put_all(bufs);
                break;
            }
            // RECVs complete elsewhere, and may be looked at first.
            Event::Unposted { buf } => bench.pool.put(buf),
            event => panic!("{event:?}"),
        }
    }
    // The host's end waits until its grant is taken back.
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        bench.turn();
    }
    let gone = |event: &Event| matches!(event, Event::Gone { .. });
    assert!(!bench.ends[HOST].events.iter().any(gone));
    assert!(bench.revoke(host, remote.key) == [5; PAGE]);
    bench.gone([host, target]);
    assert_eq!(bench.pool.out(), 0);
}

#[test]
fn who_is_refused_hears_why() {
    let Some(mut bench) = bench(18517) else {
        return;
    };
    let host = bench.dial(bench.address);
    let (incoming, now) = (bench.request(), bench.now());
    bench.ends[TARGET]
        .provider
        .reject(incoming, &[0, 0, 6, 0], now);
    let event = bench.next(HOST);
    let refused = Why::Rejected {
        reason: REJ_CONSUMER,
    };
    assert!(
        matches!(event, Event::Disconnected { qp, why } if qp == host && why == refused),
        "{event:?}"
    );
    let private = bench.ends[HOST].provider.private(host);
    assert!(private.bytes().starts_with(&[0, 0, 6, 0]));
    assert!(matches!(bench.next(HOST), Event::Gone { qp } if qp == host));

    // Nobody listens there.
    let host = bench.dial(SocketAddr::new(bench.address.ip(), 18599));
    let event = bench.next(HOST);
    assert!(
        matches!(
            event,
            Event::Disconnected {
                why: Why::Rejected { .. } | Why::Unreachable,
                ..
            }
        ),
        "{event:?}"
    );
    assert!(matches!(bench.next(HOST), Event::Gone { qp } if qp == host));
}

#[test]
fn connections_end_at_any_moment_and_leave_nothing() {
    let Some(mut bench) = bench(18518) else {
        return;
    };
    let mut before = Vec::new();
    for round in 0..50 {
        if round % 5 == 4 {
            // Closed before anything was made of it.
            let now = bench.now();
            let host = bench.dial(bench.address);
            bench.ends[HOST].provider.close(host, now);
            assert!(matches!(bench.next(HOST), Event::Gone { qp } if qp == host));
            while let Some(incoming) = bench.listener.accept() {
                drop(incoming);
            }
            continue;
        }
        let [host, target] = bench.pair();
        if round == 0 {
            before = held();
        }
        let remote = bench.grant(host, &vec![0; 4 * PAGE], Access::Write);
        for tag in 0..3 {
            bench.answer(target, tag, Some((remote, &[1; 4 * PAGE])), None);
        }
        let now = bench.now();
        let (end, qp) = [(HOST, host), (TARGET, target)][round % 2];
        bench.ends[end].provider.close(qp, now);
        bench.revoke(host, remote.key);
        let reasons = bench.gone([host, target]);
        assert_eq!(reasons[end], None);
        assert!(reasons[1 - end].is_some());
        assert_eq!(bench.pool.out(), 0);
    }
    // Requests of those that were closed early may still be on their way to be refused.
    let until = Instant::now() + PATIENCE;
    // Two queue pairs, with a connection and a slab each.
    let wanted: Vec<_> = before.iter().map(|count| count - 2).collect();
    while held() != wanted {
        assert!(
            Instant::now() < until,
            "with a pair there were {before:?}, now {:?}",
            held()
        );
        drop(bench.listener.accept());
    }
    for end in &bench.ends {
        end.provider.each_counter(&mut |name, value| {
            let none = [
                "verbs_slow_drains",
                "verbs_failed",
                "verbs_stale_completions",
            ];
            assert!(!none.contains(&name) || value == 0, "{name} is {value}");
        });
    }
}

/// Completion queues are dealt out, and another one is made: two queue pairs of this size do not fit one.
#[test]
fn a_busy_completion_queue_keeps_no_other_from_being_heard() {
    const MANY: u32 = 20_000;
    const MESSAGES: u32 = 64;
    let Some(mut bench) = bench(18521) else {
        return;
    };
    let mut open = || {
        let host = bench.dial(bench.address);
        let incoming = bench.request();
        let (now, demand) = (bench.now(), demand(0));
        let wide = Demand {
            recvs: MANY,
            ..demand
        };
        let provider = &mut bench.ends[TARGET].provider;
        let target = provider.open(incoming, &wide, now).expect("there is room");
        for _ in 0..MESSAGES {
            provider.post_recv(target, None);
        }
        provider.accept(target, b"do", now);
        for end in [HOST, TARGET] {
            let up = bench.next(end);
            assert!(matches!(up, Event::Established { .. }), "{up:?}");
        }
        [host, target]
    };
    let (busy, other) = (open(), open());
    let send = |bench: &mut Bench, qp, tag| {
        let (head, bufs) = ([0; HEAD_LEN], BufList::new());
        let message = Message { tag, head, bufs };
        bench.ends[HOST].provider.send(qp, message);
    };
    // Only the host looks, until everything was acknowledged; so it is all there when the target begins to.
    for tag in 0..MESSAGES {
        send(&mut bench, busy[HOST], tag);
    }
    send(&mut bench, other[HOST], MESSAGES);
    let (mut acknowledged, until) = (0, Instant::now() + PATIENCE);
    while acknowledged <= MESSAGES {
        assert!(Instant::now() < until, "{acknowledged} were acknowledged");
        let now = bench.now();
        while let Some(event) = bench.ends[HOST].provider.poll(now) {
            assert!(
                matches!(
                    event,
                    Event::Sent {
                        status: WcStatus::Success,
                        ..
                    }
                ),
                "{event:?}"
            );
            acknowledged += 1;
        }
        bench.ends[HOST].provider.flush(now);
    }
    let heard: Vec<QpId> = (0..=MESSAGES)
        .map(|_| match bench.next(TARGET) {
            Event::Received { qp, .. } => qp,
            event => panic!("{event:?}"),
        })
        .collect();
    let at = heard.iter().position(|qp| *qp == other[TARGET]);
    let at = at.expect("it was heard");
    // After one batch of the busy one at most.
    assert!(at <= 32, "it was heard as number {at}");
    for qps in [busy, other] {
        let now = bench.now();
        bench.ends[HOST].provider.close(qps[HOST], now);
        bench.gone(qps);
    }
}

#[test]
fn a_region_with_the_number_of_an_old_one_is_not_taken_for_it() {
    let Some(mut bench) = bench(18522) else {
        return;
    };
    let [host, target] = bench.pair();
    let class = [Class {
        size: PAGE,
        count: 1,
    }];
    let mut number = None;
    for round in 0..2u8 {
        // Numbers come back after all others had their turn.
        let region = loop {
            let region = Region::map(PAGE, Want::default()).expect("memory");
            if number.is_none_or(|number| number == region.id()) {
                break Arc::new(region);
            }
        };
        number = Some(region.id());
        bench.verbs.register(&region).expect("it can be locked");
        let mut pool = Pool::new(region, 0, Home::CORE, &class);
        let mut buf = pool.take(PAGE).expect("a Buf");
        let content = pattern(round, PAGE);
        buf.bytes_mut().copy_from_slice(&content);
        let mut bufs = BufList::new();
        bufs.push(buf);
        let (tag, head) = (round.into(), [round; HEAD_LEN]);
        bench.ends[HOST]
            .provider
            .send(host, Message { tag, head, bufs });
        match bench.next(TARGET) {
            Event::Received { buf: Some(buf), .. } => {
                assert!(buf.bytes() == content);
                bench.ends[TARGET].provider.post_recv(target, Some(buf));
            }
            event => panic!("{event:?}"),
        }
        match bench.next(HOST) {
            Event::Sent {
                mut bufs,
                status: WcStatus::Success,
                ..
            } => pool.put(bufs.pop().expect("it comes back")),
            event => panic!("{event:?}"),
        }
    }
    let now = bench.now();
    bench.ends[HOST].provider.close(host, now);
    bench.gone([host, target]);
}

/// As of a node that looks whether a device has its address, and finds none.
#[test]
fn who_ends_as_soon_as_it_started_does_not_wait_for_ever() {
    let Some(_bench) = bench(18523) else {
        return;
    };
    for _ in 0..100 {
        drop(Verbs::start(Options::default()).expect("RDMA is there"));
    }
}

#[test]
fn an_armed_end_wakes_up() {
    let Some(mut bench) = bench(18519) else {
        return;
    };
    let [host, target] = bench.pair();
    let epoll = Epoll::new().expect("a descriptor");
    let fd = bench.ends[TARGET]
        .provider
        .fd()
        .expect("it can be slept on");
    epoll.add(fd, 1).expect("watched");
    let mut events = Events::new(4);
    for tag in 0..3 {
        let until = Instant::now() + PATIENCE;
        while !bench.ends[TARGET].provider.arm(false) {
            bench.turn();
            assert!(Instant::now() < until, "it never comes to rest");
        }
        let count = |events: &mut Events| epoll.wait(events).expect("no failure").count();
        // What happened before is no news.
        let _ = count(&mut events);
        let message = Message {
            tag,
            head: [tag as u8; HEAD_LEN],
            bufs: BufList::new(),
        };
        let now = bench.now();
        bench.ends[HOST].provider.send(host, message);
        bench.ends[HOST].provider.flush(now);
        while count(&mut events) == 0 {
            assert!(Instant::now() < until, "nobody is woken");
        }
        match bench.next(TARGET) {
            Event::Received { len, buf, .. } => {
                assert_eq!(len as usize, HEAD_LEN);
                bench.ends[TARGET].provider.post_recv(target, buf);
            }
            event => panic!("{event:?}"),
        }
        assert_eq!(bench.sent(HOST, tag), WcStatus::Success);
    }
    let now = bench.now();
    bench.ends[TARGET].provider.close(target, now);
    bench.gone([host, target]);
    assert_eq!(bench.pool.out(), 0);
    assert!(!bench.verbs.has("192.0.2.1".parse().expect("an address")));
}

/// That what it sent is done wakes an end if it waits for that, and not if it is patient; it hears of it all the same.
#[test]
fn a_patient_end_is_not_woken_for_what_it_sent() {
    let Some(mut bench) = bench(18524) else {
        return;
    };
    let [host, target] = bench.pair();
    let epoll = Epoll::new().expect("a descriptor");
    let fd = bench.ends[TARGET].provider.fd();
    epoll
        .add(fd.expect("it can be slept on"), 1)
        .expect("watched");
    let mut events = Events::new(4);
    let mut woken = |for_ms: u64| {
        let until = Instant::now() + Duration::from_millis(for_ms);
        let mut any = false;
        while !any && Instant::now() < until {
            any = epoll.wait(&mut events).expect("no failure").count() > 0;
        }
        any
    };
    for (tag, patient) in [(0, true), (1, false), (2, true), (3, true), (4, false)] {
        let until = Instant::now() + PATIENCE;
        while !bench.ends[TARGET].provider.arm(patient) {
            bench.turn();
            assert!(Instant::now() < until, "it never comes to rest");
        }
        // What happened before is no news.
        woken(1);
        let now = bench.now();
        let provider = &mut bench.ends[TARGET].provider;
        let message = Message {
            tag,
            head: [tag as u8; HEAD_LEN],
            bufs: BufList::new(),
        };
        provider.send(target, message);
        provider.flush(now);
        // Nobody looks at the target's end.
        let received = loop {
            let now = bench.now();
            let provider = &mut bench.ends[HOST].provider;
            let event = provider.poll(now);
            provider.flush(now);
            match event {
                Some(Event::Received { buf, .. }) => break buf,
                Some(event) => panic!("{event:?}"),
                None => assert!(Instant::now() < until, "it never arrives"),
            }
        };
        bench.ends[HOST].provider.post_recv(host, received);
        let for_ms = if patient { 100 } else { 10_000 };
        assert_eq!(woken(for_ms), !patient, "message {tag}");
        assert!(!bench.ends[TARGET].provider.arm(patient), "it is done");
        assert_eq!(bench.sent(TARGET, tag), WcStatus::Success);
    }
    let now = bench.now();
    bench.ends[TARGET].provider.close(target, now);
    bench.gone([host, target]);
    assert_eq!(bench.pool.out(), 0);
}

/// A node that has another host, in FERROCE_RDMA_NODE: the lab's scenario `verbs-enemies` has one. Whatever comes here, it
/// costs its own connection and no other; the scenario looks at what the node has left of it.
#[test]
fn enemies_cost_a_node_nothing_but_their_connections() {
    let (Ok(node), Some(mut bench)) = (std::env::var("FERROCE_RDMA_NODE"), bench(18520)) else {
        return;
    };
    let node: SocketAddr = node.parse().expect("an address and a port");

    // Requests that are no requests.
    let right = RdmaCmRequest::new(0, 32);
    let change = |change: fn(&mut RdmaCmRequest)| {
        let mut request = right;
        change(&mut request);
        request.as_bytes().to_vec()
    };
    for (private, status) in [
        (change(|request| request.recfmt = 1.into()), 2),
        (change(|request| request.qid = 0xFFFF.into()), 3),
        (change(|request| request.hsqsize_z = 0.into()), 4),
        (change(|request| request.hsqsize_z = 0xFFFF.into()), 4),
        (change(|request| request.hrqsize = 0.into()), 5),
        (vec![0xFF; 56], 2),
        // Nothing, which the connection manager fills up with zeros.
        (Vec::new(), 4),
    ] {
        let host = bench.dial_with(node, &private);
        let event = bench.next(HOST);
        let refused = Why::Rejected {
            reason: REJ_CONSUMER,
        };
        assert!(
            matches!(event, Event::Disconnected { why, .. } if why == refused),
            "{private:?}: {event:?}"
        );
        let said = bench.ends[HOST].provider.private(host);
        let said = RdmaCmReject::read(said.bytes()).expect("it says why");
        assert_eq!(said.status().0, status, "{private:?}");
        assert!(matches!(bench.next(HOST), Event::Gone { qp } if qp == host));
    }

    // Hosts that are gone at any moment of setting up.
    for round in 0..100u32 {
        let qid = (round % 2) as u16;
        let host = bench.dial_with(node, RdmaCmRequest::new(qid, 32).as_bytes());
        for _ in 0..round * round {
            bench.turn();
        }
        let now = bench.now();
        bench.ends[HOST].provider.close(host, now);
        while !matches!(bench.next(HOST), Event::Gone { qp } if qp == host) {}
    }

    // Commands that name memory which is not theirs, or is not there; and more than a RECV has room for.
    let connect = nvme::connect(0, 32, 0, 5000);
    let keyed = |addr, len, key| connect.with_sgl(KeyedSgl::new(addr, len, key, true).into());
    let nothing = BufList::new;
    for round in 0..8 {
        let host = bench.dial_with(node, RdmaCmRequest::new(0, 32).as_bytes());
        let up = bench.next(HOST);
        assert!(
            matches!(up, Event::Established { qp } if qp == host),
            "{up:?}"
        );
        for _ in 0..RECVS {
            bench.ends[HOST].provider.post_recv(host, None);
        }
        let granted = bench.grant(host, &[0; PAGE], Access::Write);
        let (sqe, bufs) = match round {
            0 => (keyed(0, 1024, 0), nothing()),
            1 => (keyed(granted.addr, 1024, granted.key ^ 0xFF), nothing()),
            // Beyond its end, across it, and without the right to read it.
            2 => (
                keyed(granted.addr + PAGE as u64, 1024, granted.key),
                nothing(),
            ),
            3 => (
                keyed(granted.addr + PAGE as u64 - 512, 1024, granted.key),
                nothing(),
            ),
            4 => (keyed(granted.addr, 1024, granted.key), nothing()),
            5 => (keyed(u64::MAX - 100, 1024, granted.key), nothing()),
            // An admin queue takes no data in capsules.
            6 => (connect, bench.pages(&[1; PAGE])),
            _ => (connect, bench.pages(&[1; 3 * PAGE])),
        };
        let (tag, head) = (round, bytemuck::cast(sqe));
        bench.ends[HOST]
            .provider
            .send(host, Message { tag, head, bufs });
        // The node hangs up; where the device found a fault, it is heard of as one.
        loop {
            match bench.next(HOST) {
                Event::Disconnected { .. } => break,
                Event::Sent { bufs, .. } => bench.pool.put_all(bufs),
                event => panic!("round {round}: {event:?}"),
            }
        }
        bench.revoke(host, granted.key);
        while !matches!(bench.next(HOST), Event::Gone { qp } if qp == host) {}
    }
    assert_eq!(bench.pool.out(), 0);
}
