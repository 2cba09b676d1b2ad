use std::net::{TcpListener, TcpStream};

use ferroce_transport::host::Data;

use super::server::{Server, memory};
use super::*;
use crate::common::wait_for;
use crate::config::Spin;
use crate::probe::link::Io;
use crate::units::Size;
use crate::url::Url;

/// A server on a thread that stays until the tests end, and where it is.
fn serve() -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let at = listener.local_addr().expect("an address");
    let memory = memory(Size(16 << 20)).expect("memory");
    let server = Server::new(listener, memory, Spin::default()).expect("a server");
    std::thread::spawn(move || server.run());
    Url::from(at)
}

fn io(place: u64, len: u32, write: bool) -> Io {
    Io {
        nsid: 1,
        lba: place * u64::from(len / 512),
        blocks: len / 512,
        write,
    }
}

fn enough(there: usize, wanted: usize) -> Result<(), String> {
    match there < wanted {
        true => Err(format!("{there} of {wanted}")),
        false => Ok(()),
    }
}

/// Exchanges until a queue has an error.
fn broken(mut exchange: impl FnMut() -> bool) {
    let look = || match exchange() {
        true => Ok(()),
        false => Err("none".to_owned()),
    };
    wait_for("an error", look);
}

fn finish(queue: &mut Queue, count: usize) -> Vec<u64> {
    let mut done = Vec::new();
    let look = || {
        queue.exchange();
        assert_eq!(queue.book.error(), None);
        done.extend(std::iter::from_fn(|| queue.book.next_done()).map(|done| done.user_data));
        enough(done.len(), count)
    };
    wait_for("answers", look);
    done
}

#[test]
fn requests_survive_the_trip() {
    for what in [What::Read, What::Write, What::Usage] {
        let request = Request {
            what,
            len: 4096,
            at: 8192,
        };
        assert_eq!(Request::of(&request.to_bytes(), 12_288), Some(request));
        assert_eq!(Request::of(&request.to_bytes(), 12_287), None);
    }
    let far = Request {
        what: What::Read,
        len: 1,
        at: u64::MAX,
    };
    assert_eq!(Request::of(&far.to_bytes(), u64::MAX), None);
    assert_eq!(value_of(&reply(7)), Some(7));
    assert_eq!(value_of(&[0; REPLY]), None);
}

#[test]
fn reads_and_writes_of_every_size_are_answered_in_order() {
    let site = Site::connect(&serve()).expect("connects");
    assert_eq!(site.size(), 16 << 20);
    for len in [512u32, 4096, 128 * 1024, 1 << 20, 16 << 20] {
        let mut queue = site.queue(32).expect("connects");
        for round in 0..4 {
            for tag in 0..32u64 {
                let write = (tag + round) % 3 == 0;
                let data = if write {
                    Data::zeroed(len as usize)
                } else {
                    Data::Discard(len)
                };
                assert!(queue.submit(&io(tag, len, write), data, tag).is_ok());
                if len > 1 << 20 {
                    assert_eq!(finish(&mut queue, 1), [tag]);
                }
            }
            if len <= 1 << 20 {
                let more = queue.submit(&io(0, len, false), Data::Discard(len), 99);
                assert!(more.is_err(), "the queue is full");
                assert_eq!(finish(&mut queue, 32), (0..32).collect::<Vec<_>>());
            }
        }
        assert_eq!(queue.book.outstanding(), 0);
    }
}

#[test]
fn a_train_of_datagrams_is_answered_in_order() {
    let site = Site::connect(&serve()).expect("connects");
    let home = std::net::IpAddr::from([127, 0, 0, 1]);
    for (segment, len, depth) in [
        (1024, 4096u32, 32),
        (4096, 4096, 32),
        (1024, 1000, 4),
        (4096, 131_072, 2),
    ] {
        let mut queue = site.datagrams(home, segment, depth).expect("a socket");
        for _ in 0..20 {
            for tag in 0..u64::from(depth) {
                let taken = queue.submit(&io(tag, 4096, false), Data::Discard(len), tag);
                assert!(taken.is_ok());
            }
            let more = queue.submit(&io(0, 4096, false), Data::Discard(len), 99);
            assert!(more.is_err(), "the queue is full");
            let mut done = Vec::new();
            let look = || {
                queue.exchange();
                assert_eq!(queue.book.error(), None);
                done.extend(
                    std::iter::from_fn(|| queue.book.next_done()).map(|done| done.user_data),
                );
                enough(done.len(), depth.into())
            };
            wait_for("answers", look);
            assert_eq!(done, (0..u64::from(depth)).collect::<Vec<_>>());
        }
        let write = queue.submit(&io(0, 4096, true), Data::zeroed(4096), 1);
        assert!(write.is_err(), "reads alone");
    }
}

#[test]
fn a_train_without_an_answer_ends_the_measurement() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let (home, at) = ([127, 0, 0, 1].into(), silent.local_addr().expect("a port"));
    let mut queue = datagrams::Queue::new(home, at, 16 << 20, 4096, 1).expect("a socket");
    assert!(
        queue
            .submit(&io(0, 4096, false), Data::Discard(4096), 7)
            .is_ok()
    );
    broken(|| {
        queue.exchange();
        queue.book.error().is_some()
    });
    assert!(
        !queue
            .book
            .next_done()
            .expect("it is given back")
            .is_success()
    );
    assert_eq!(queue.book.outstanding(), 0);
}

#[test]
fn it_tells_its_cpu_time() {
    let mut site = Site::connect(&serve()).expect("connects");
    if std::fs::read_to_string("/proc/self/schedstat").is_ok() {
        let before = site.cpu_ns().expect("it tells");
        let after = site.cpu_ns().expect("it tells");
        assert!(before > 0 && after >= before);
    }
}

#[test]
fn strangers_are_recognised_by_both_ends() {
    use std::io::{Read, Write};
    let url = serve();
    let at = url.resolve().expect("an address")[0];
    let mut stranger = TcpStream::connect(at).expect("connects");
    stranger.write_all(&[0x5A; REQUEST]).expect("writes");
    let mut said = Vec::new();
    // It greets, then hangs up; a reset instead of the end is as good.
    let _ = stranger.read_to_end(&mut said);
    assert!(said.len() <= REPLY);

    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let other = Url::from(listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("accepts");
        let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let why = Site::connect(&other).expect_err("it is no raw server");
    assert!(why.to_string().contains("does not answer as a raw server"));
}

#[test]
fn a_server_that_goes_leaves_no_request_without_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let at = listener.local_addr().expect("an address");
    let socket = TcpStream::connect(at).expect("connects");
    let (other, _) = listener.accept().expect("accepts");
    let mut queue = Queue::new(socket, 16 << 20, 4).expect("a queue");
    for tag in 0..4 {
        assert!(
            queue
                .submit(&io(tag, 4096, false), Data::Discard(4096), tag)
                .is_ok()
        );
    }
    queue.flush();
    drop(other);
    broken(|| {
        queue.exchange();
        queue.book.error().is_some()
    });
    let lost: Vec<bool> = std::iter::from_fn(|| queue.book.next_done())
        .map(|done| done.is_success())
        .collect();
    assert_eq!(lost, [false; 4]);
    assert!(
        queue
            .submit(&io(0, 4096, false), Data::Discard(4096), 9)
            .is_err()
    );
}
