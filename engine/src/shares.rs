//! How much each queue, and each host, holds of what all of a core share.
//!
//! Memory that may wait for a peer is dealt by a dynamic threshold (Choudhury and Hahne, "Dynamic queue
//! length thresholds for shared-memory packet switches", 1998): a host may take more only while it
//! holds less than is free, and by the same rule a queue of what its host may have. Whoever holds
//! nothing may take as long as anything is free; a host that never gives anything back leaves half to
//! others, and a queue that does not half of that to its host's others. Sizes of buffers are dealt one
//! by one.

use ferroce_buf::{Buf, Pool};

use crate::controller::Association;
use crate::plant::{self, Bug};

/// Sizes of buffers that a pool has at most.
const CLASSES: usize = 8;
/// All whose connections are not admitted yet count as one host.
const STRANGERS: usize = 0;

/// Who holds what, by the queues' slots.
#[derive(Debug)]
pub struct Shares {
    queues: Vec<(u32, Holdings)>,
    hosts: Vec<Host>,
}

#[derive(Debug, Default)]
struct Host {
    hostid: [u8; 16],
    hostnqn: String,
    queues: u32,
    holds: Holdings,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Holdings {
    /// Buffers of the data pool, by size.
    bufs: [u32; CLASSES],
    /// Pages of drives' own memory that are with the peer, or promised to it.
    lent: u32,
}

/// The rule: what a queue holds, its host with it, and what is free.
#[inline]
const fn may_take(queue: u32, host: u32, free: u32) -> bool {
    if queue == 0 {
        host < free
    } else {
        2 * queue + host < free
    }
}

impl Shares {
    pub fn new(pool: &Pool) -> Shares {
        assert!(pool.classes() <= CLASSES, "a pool has few sizes");
        Shares {
            queues: Vec::new(),
            hosts: vec![Host::default()],
        }
    }

    /// There is a queue of that slot.
    pub fn open(&mut self, queue: u32) {
        assert!(queue < u32::from(u16::MAX), "a Buf names its queue");
        if self.queues.len() <= queue as usize {
            let blank = (STRANGERS as u32, Holdings::default());
            self.queues.resize(queue as usize + 1, blank);
        }
    }

    /// A queue was admitted as this host's; the host's index, for fairness between hosts elsewhere.
    pub fn join(&mut self, queue: u32, who: &Association) -> u32 {
        let known = |host: &Host| host.hostid == who.hostid && host.hostnqn == who.hostnqn;
        let others = || self.hosts.iter().enumerate().skip(1);
        let at = others()
            .find(|(_, host)| known(host))
            .or_else(|| others().find(|(_, host)| host.queues == 0))
            .map_or(self.hosts.len(), |(at, _)| at);
        if at == self.hosts.len() {
            self.hosts.push(Host::default());
        }
        let host = &mut self.hosts[at];
        if !known(host) {
            host.hostid = who.hostid;
            host.hostnqn.clone_from(&who.hostnqn);
        }
        host.queues += 1;
        self.move_to(queue, at);
        at as u32
    }

    /// An admitted queue is gone.
    pub fn leave(&mut self, queue: u32) {
        let host = self.queues[queue as usize].0 as usize;
        self.hosts[host].queues -= 1;
        self.move_to(queue, STRANGERS);
    }

    fn move_to(&mut self, queue: u32, host: usize) {
        let (of, holds) = &mut self.queues[queue as usize];
        self.hosts[*of as usize]
            .holds
            .change(holds, u32::wrapping_sub);
        self.hosts[host].holds.change(holds, u32::wrapping_add);
        *of = host as u32;
    }

    /// A buffer of the pool for something that may wait for this queue's peer; `None` while there is
    /// none, or its queue or host holds enough.
    #[inline]
    pub fn take(&mut self, queue: u32, pool: &mut Pool, len: usize) -> Option<Buf> {
        let (host, mine) = &self.queues[queue as usize];
        let (mine, all) = (&mine.bufs, &self.hosts[*host as usize].holds.bufs);
        let buf = pool.take_where(len, |class, free| {
            may_take(mine[class], all[class], free as u32) || plant::on(Bug::HoldsAll)
        })?;
        Some(self.charge(queue, buf))
    }

    /// Another one for the same purpose: who holds only the first may have it as well.
    #[inline]
    pub fn take_second(&mut self, queue: u32, pool: &mut Pool, len: usize) -> Option<Buf> {
        let (host, mine) = &self.queues[queue as usize];
        let (mine, all) = (&mine.bufs, &self.hosts[*host as usize].holds.bufs);
        let buf = pool.take_where(len, |class, free| {
            all[class] <= 1 || may_take(mine[class], all[class], free as u32)
        })?;
        Some(self.charge(queue, buf))
    }

    #[inline]
    fn charge(&mut self, queue: u32, mut buf: Buf) -> Buf {
        let (host, mine) = &mut self.queues[queue as usize];
        mine.bufs[buf.class()] += 1;
        self.hosts[*host as usize].holds.bufs[buf.class()] += 1;
        buf.deal_to(queue as u16);
        buf
    }

    /// A buffer of the pool goes home; the queue that had it.
    #[inline]
    pub fn put(&mut self, pool: &mut Pool, buf: Buf) -> u32 {
        let queue = u32::from(buf.dealt_to());
        let (host, mine) = &mut self.queues[queue as usize];
        mine.bufs[buf.class()] -= 1;
        self.hosts[*host as usize].holds.bufs[buf.class()] -= 1;
        pool.put(buf);
        queue
    }

    /// Promises the queue's peer so many pages of a drive's own, of which that can lend `free` more; false if
    /// it may not have them.
    #[inline(always)]
    pub fn borrow(&mut self, queue: u32, count: u32, free: u32) -> bool {
        let (host, mine) = &mut self.queues[queue as usize];
        let all = &mut self.hosts[*host as usize].holds;
        let may = may_take(mine.lent, all.lent, free) || plant::on(Bug::LendsAll);
        if may {
            mine.lent += count;
            all.lent += count;
        }
        may
    }

    /// So many fewer are with it.
    #[inline]
    pub fn returned(&mut self, queue: u32, count: u32) {
        let (host, mine) = &mut self.queues[queue as usize];
        mine.lent -= count;
        self.hosts[*host as usize].holds.lent -= count;
    }

    /// Nothing is with the queue's peer.
    pub fn is_empty(&self, queue: u32) -> bool {
        self.queues[queue as usize].1 == Holdings::default()
    }
}

impl Holdings {
    fn change(&mut self, by: &Holdings, how: impl Fn(u32, u32) -> u32) {
        for (mine, other) in self.bufs.iter_mut().zip(&by.bufs) {
            *mine = how(*mine, *other);
        }
        self.lent = how(self.lent, by.lent);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ferroce_buf::{Class, Home, Region, Want};

    use super::*;
    use crate::controller::Kind;
    use crate::port::Tick;
    use crate::table::Transport;

    fn pool(count: usize) -> Pool {
        let classes = [4096, 16384].map(|size| Class { size, count });
        let region = Region::map(Pool::bytes(&classes), Want::default()).expect("memory");
        Pool::new(Arc::new(region), 0, Home::CORE, &classes)
    }

    /// Queues 0 to 7, two of each of four hosts.
    fn shares(pool: &Pool) -> Shares {
        let mut shares = Shares::new(pool);
        for queue in 0..8 {
            shares.open(queue);
            let host = queue as u8 / 2;
            let address = ([127, 0, 0, 1], 4420).into();
            let who = Association::new(
                1,
                Kind::Io,
                String::new(),
                format!("host{host}"),
                [host; 16],
                Transport::Tcp,
                (address, address),
                1,
                Tick(0),
            );
            shares.join(queue, &who);
        }
        shares
    }

    fn fill(shares: &mut Shares, queue: u32, pool: &mut Pool) -> Vec<Buf> {
        std::iter::from_fn(|| shares.take(queue, pool, 16384)).collect()
    }

    #[test]
    fn who_gives_nothing_back_leaves_the_larger_part_to_others() {
        let mut pool = pool(64);
        let mut shares = shares(&pool);
        let mut out: Vec<Buf> = Vec::new();
        let mut counts = Vec::new();
        for queue in 0..6 {
            let more = fill(&mut shares, queue, &mut pool);
            counts.push(more.len());
            out.extend(more);
        }
        // A quarter for a queue, an eighth for its host's second; and so on of what is left.
        assert_eq!(counts, [16, 8, 10, 5, 7, 3]);
        // A Compare takes two at once.
        let one = shares.take(6, &mut pool, 16384).expect("it holds nothing");
        let two = shares.take_second(6, &mut pool, 16384);
        out.extend([one, two.expect("it holds only the first")]);
        for buf in out {
            shares.put(&mut pool, buf);
        }
        assert_eq!(pool.out(), 0);
        assert!((0..8).all(|queue| shares.is_empty(queue)));
        // With everything home, one may again have as much.
        let first = fill(&mut shares, 0, &mut pool);
        assert_eq!(first.len(), 16);
        // What it has stays its own when it is nobody's any more.
        shares.leave(0);
        for buf in first {
            shares.put(&mut pool, buf);
        }
        assert!(
            shares
                .hosts
                .iter()
                .all(|host| host.holds == Holdings::default())
        );
    }

    #[test]
    fn the_last_one_goes_to_who_has_none() {
        let mut pool = pool(2);
        let mut shares = shares(&pool);
        let first = fill(&mut shares, 0, &mut pool);
        let second = fill(&mut shares, 2, &mut pool);
        assert_eq!((first.len(), second.len()), (1, 1));
        for buf in first.into_iter().chain(second) {
            shares.put(&mut pool, buf);
        }
    }

    #[test]
    fn a_compare_alone_gets_both_its_sides() {
        let mut pool = pool(2);
        let mut shares = shares(&pool);
        let one = shares.take(0, &mut pool, 16384).expect("all are free");
        let two = shares.take_second(0, &mut pool, 16384).expect("one is");
        for buf in [one, two] {
            shares.put(&mut pool, buf);
        }
    }
}
