use super::*;
use crate::dma::{Bus, Iommu};
use crate::mmio::Registers;
use ferroce_buf::BufList;
use ferroce_engine::port::Tag;

/// A drive that does nothing by itself.
#[derive(Debug)]
struct Silent;

impl Registers for Silent {
    fn read32(&self, _at: u32) -> u32 {
        0
    }

    fn write32(&self, _at: u32, _value: u32) {}
}

/// A queue, whose keeper's clock and whose completions are the test's.
struct Bench {
    word: Arc<Word>,
    end: Arc<End>,
    queue: OwnQueue,
    posted: usize,
}

impl Bench {
    fn new() -> Bench {
        let iommu = Iommu::Bus(Arc::new(Bus::default()));
        let word = Arc::new(Word::default());
        let memory = DmaMemory::map(&iommu, End::memory_len(8), None).unwrap();
        let end = Arc::new(End::new(1, 0, 8, Arc::new(memory), None, word.life()));
        let queue = OwnQueue::new(
            word.clone(),
            end.clone(),
            Bar::Played(Arc::new(Silent)),
            Cap::default(),
            BufMap::map(&iommu, &[]).unwrap(),
            Abilities::default(),
            Patience::default(),
        );
        Bench {
            word,
            end,
            queue,
            posted: 0,
        }
    }

    /// Gives it a Flush: its CID.
    fn submit(&mut self) -> u16 {
        let before: Vec<u16> = self.queue.table.cids().collect();
        let tag = Tag {
            slot: 0,
            generation: 0,
        };
        let (op, bufs) = (Op::Flush, BufList::new());
        self.queue.submit(Io { tag, op, bufs }).unwrap();
        let new = |cid: &u16| !before.contains(cid);
        self.queue.table.cids().find(new).unwrap()
    }

    fn complete(&mut self, cid: u16) {
        let at = self.queue.layout.completions / 8 + self.posted % 8 * 2;
        let phase = u64::from((self.posted / 8).is_multiple_of(2)) << 48;
        let words = self.end.memory.words();
        words[at + 1].store(u64::from(cid) << 32 | phase, Ordering::Release);
        self.posted += 1;
        assert_eq!(self.queue.poll().unwrap().status, Status::SUCCESS);
    }

    /// At this time of the keeper: whom the queue suspects, and whether it is stuck.
    fn at(&mut self, ms: u32) -> (Option<u16>, bool) {
        self.word.tell_ms(ms);
        assert!(self.queue.poll().is_none());
        (self.end.suspect(), self.end.is_stuck())
    }
}

#[test]
fn a_command_takes_too_long_where_none_is_done() {
    let mut bench = Bench::new();
    let cid = bench.submit();
    assert_eq!(bench.at(7_999), (None, false));
    assert_eq!(bench.at(8_000), (Some(cid), false));
    // It may still come for a while, whatever becomes of its Abort.
    assert_eq!(bench.at(13_999), (None, false));
    assert_eq!(bench.at(14_000), (None, true));
}

#[test]
fn a_command_may_take_longer_while_others_are_done() {
    let mut bench = Bench::new();
    let slow = bench.submit();
    for ms in (500..20_000).step_by(500) {
        let cid = bench.submit();
        bench.complete(cid);
        assert_eq!(bench.at(ms), (None, false), "{ms}");
    }
    let cid = bench.submit();
    bench.complete(cid);
    assert_eq!(bench.at(20_000), (Some(slow), false));
    // It may still come.
    assert_eq!(bench.at(25_999), (None, false));
    assert_eq!(bench.at(26_000), (None, true));
}
