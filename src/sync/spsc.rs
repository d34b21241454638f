//! A bounded queue from one thread to one other, for values that are plain bits: how extra I/O
//! threads exchange work with the thread that drives a link. Neither side waits or takes a lock.
//!
//! # Why it is right
//! `tail` counts the values ever pushed and is written by the producer only; `head` counts the
//! values ever popped and is written by the consumer only. Both only grow (they wrap around after
//! 2^64 values, and only their difference is used). A slot with `head <= index < tail` belongs to
//! the consumer, every other one to the producer.
//!
//! - The producer writes a slot and then stores `tail` with Release; the consumer loads `tail`
//!   with Acquire before it reads the slot. So the consumer sees the value whole.
//! - The consumer reads a slot and then stores `head` with Release; the producer loads `head`
//!   with Acquire before it writes that slot again. So no value is overwritten while it is read.
//!
//! There is one producer and one consumer because the two halves can't be cloned and all that
//! moves them takes `&mut self`. Each keeps a private copy of its own counter (nobody else writes
//! it) and of the other's last seen one, which is stale only on the safe side: an old `head` shows
//! less room than there is, an old `tail` fewer values. It is read again only when it says full or
//! empty; thus a busy queue moves the other side's cache line once per lap, not once per value.
//!
//! Values are `Copy`: nothing needs to be dropped, whatever the queue still holds at the end.

use super::primitives::{Arc, AtomicUsize, Ordering, UnsafeCell};
use crossbeam_utils::CachePadded;
use std::fmt;
use std::mem::MaybeUninit;

/// The largest capacity: far below where the sizes of slots or counters could overflow.
const CAPACITY_MAX: usize = 1 << 30;

struct Ring<T> {
    /// Values ever popped; written by the consumer.
    head: CachePadded<AtomicUsize>,
    /// Values ever pushed; written by the producer.
    tail: CachePadded<AtomicUsize>,
    /// A power of two, so that a counter becomes an index by a mask, also when it wraps around.
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    /// How many values may be in the queue; at most the number of slots.
    capacity: usize,
}

// SAFETY: the two threads never touch a slot at the same time (see the head of the file), and a
// value moves from one to the other, which takes `T: Send`.
#[expect(unsafe_code, reason = "this is the queue")]
unsafe impl<T: Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    fn slot(&self, count: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[count & (self.slots.len() - 1)]
    }
}

/// The end of a queue that puts values in.
pub struct Producer<T> {
    ring: Arc<Ring<T>>,
    tail: usize,
    head_seen: usize,
}

/// The end of a queue that takes values out.
pub struct Consumer<T> {
    ring: Arc<Ring<T>>,
    head: usize,
    tail_seen: usize,
}

/// A queue for up to `capacity` values (at least 1).
///
/// # Panics
/// If `capacity` exceeds 2^30.
#[must_use]
pub fn channel<T: Copy>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(
        capacity <= CAPACITY_MAX,
        "a queue of {capacity} values is too large"
    );
    let capacity = capacity.max(1);
    let slots = (0..capacity.next_power_of_two())
        .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
        .collect();
    let ring = Arc::new(Ring {
        head: CachePadded::new(AtomicUsize::new(0)),
        tail: CachePadded::new(AtomicUsize::new(0)),
        slots,
        capacity,
    });
    let producer = Producer {
        ring: Arc::clone(&ring),
        tail: 0,
        head_seen: 0,
    };
    (
        producer,
        Consumer {
            ring,
            head: 0,
            tail_seen: 0,
        },
    )
}

impl<T: Copy> Producer<T> {
    /// Puts `value` in.
    ///
    /// # Errors
    /// Gives the value back if the queue is full.
    #[inline]
    #[expect(unsafe_code, reason = "this is the queue")]
    pub fn push(&mut self, value: T) -> Result<(), T> {
        if self.tail.wrapping_sub(self.head_seen) >= self.ring.capacity {
            // Acquire: pairs with the consumer's Release store in `pop`.
            self.head_seen = self.ring.head.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head_seen) >= self.ring.capacity {
                return Err(value);
            }
        }
        self.ring.slot(self.tail).with_mut(|slot| {
            // SAFETY: the slot is outside `head..tail`, hence the producer's, and there is only
            // this one producer. Overwriting a `Copy` value leaks nothing.
            unsafe { (*slot).write(value) };
        });
        self.tail = self.tail.wrapping_add(1);
        // Release: pairs with the consumer's Acquire loads in `pop` and `is_empty`.
        self.ring.tail.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// How many values may be in the queue at once.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ring.capacity
    }
}

impl<T: Copy> Consumer<T> {
    /// Takes the oldest value out, if there is one.
    #[inline]
    #[expect(unsafe_code, reason = "this is the queue")]
    pub fn pop(&mut self) -> Option<T> {
        if self.head == self.tail_seen {
            // Acquire: pairs with the producer's Release store in `push`.
            self.tail_seen = self.ring.tail.load(Ordering::Acquire);
            if self.head == self.tail_seen {
                return None;
            }
        }
        let value = self.ring.slot(self.head).with(|slot| {
            // SAFETY: the slot is inside `head..tail`, hence written, and the consumer's until
            // `head` passes it; there is only this one consumer.
            unsafe { (*slot).assume_init() }
        });
        self.head = self.head.wrapping_add(1);
        // Release: pairs with the producer's Acquire load in `push`.
        self.ring.head.store(self.head, Ordering::Release);
        Some(value)
    }

    /// Whether there is nothing to take out at this moment.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // Acquire: pairs with the producer's Release store in `push`, so that whoever sees a value
        // here also sees what led to it.
        self.head == self.ring.tail.load(Ordering::Acquire)
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("capacity", &self.ring.capacity)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("capacity", &self.ring.capacity)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::thread;

    #[derive(Debug, Clone, Copy)]
    enum Operation {
        Push(u32),
        Pop,
        IsEmpty,
    }

    fn operations() -> impl Strategy<Value = Vec<Operation>> {
        let operation = prop_oneof![
            3 => any::<u32>().prop_map(Operation::Push),
            2 => Just(Operation::Pop),
            1 => Just(Operation::IsEmpty),
        ];
        prop::collection::vec(operation, 0..200)
    }

    proptest! {
        #[test]
        fn behaves_like_a_bounded_deque(capacity in 0_usize..20, operations in operations()) {
            let (mut producer, mut consumer) = channel(capacity);
            let capacity = capacity.max(1);
            prop_assert_eq!(producer.capacity(), capacity);
            let mut model = VecDeque::new();
            for operation in operations {
                match operation {
                    Operation::Push(value) if model.len() == capacity => {
                        prop_assert_eq!(producer.push(value), Err(value));
                    }
                    Operation::Push(value) => {
                        prop_assert_eq!(producer.push(value), Ok(()));
                        model.push_back(value);
                    }
                    Operation::Pop => prop_assert_eq!(consumer.pop(), model.pop_front()),
                    Operation::IsEmpty => prop_assert_eq!(consumer.is_empty(), model.is_empty()),
                }
            }
        }

        /// The counters wrap around after 2^64 values; here they start shortly before.
        #[test]
        fn wraps_around(capacity in 1_usize..20, before in 0_usize..40, operations in operations()) {
            let (mut producer, mut consumer) = channel(capacity);
            let start = usize::MAX - before;
            (producer.tail, producer.head_seen) = (start, start);
            (consumer.head, consumer.tail_seen) = (start, start);
            producer.ring.tail.store(start, Ordering::Relaxed);
            producer.ring.head.store(start, Ordering::Relaxed);
            let mut model = VecDeque::new();
            for operation in operations {
                match operation {
                    Operation::Push(value) => {
                        let pushed = producer.push(value).is_ok();
                        prop_assert_eq!(pushed, model.len() < capacity);
                        if pushed {
                            model.push_back(value);
                        }
                    }
                    Operation::Pop => prop_assert_eq!(consumer.pop(), model.pop_front()),
                    Operation::IsEmpty => prop_assert_eq!(consumer.is_empty(), model.is_empty()),
                }
            }
        }
    }

    #[test]
    fn keeps_the_order_between_threads() {
        const VALUES: u64 = 100_000;
        let (mut producer, mut consumer) = channel::<[u64; 3]>(7);
        thread::scope(|scope| {
            scope.spawn(move || {
                for i in 0..VALUES {
                    let mut value = [i, !i, i.wrapping_mul(3)];
                    while let Err(refused) = producer.push(value) {
                        value = refused;
                        thread::yield_now();
                    }
                }
            });
            for i in 0..VALUES {
                let value = loop {
                    if let Some(value) = consumer.pop() {
                        break value;
                    }
                    thread::yield_now();
                };
                assert_eq!(value, [i, !i, i.wrapping_mul(3)], "torn or out of order");
            }
            assert!(consumer.is_empty());
        });
    }

    #[test]
    fn either_end_may_go_first() {
        let (mut producer, consumer) = channel(2);
        drop(consumer);
        assert_eq!(
            (producer.push(1), producer.push(2), producer.push(3)),
            (Ok(()), Ok(()), Err(3))
        );
        let (mut producer, mut consumer) = channel(2);
        assert_eq!(producer.push(1), Ok(()));
        drop(producer);
        assert_eq!((consumer.pop(), consumer.pop()), (Some(1), None));
    }

    #[test]
    #[should_panic(expected = "too large")]
    fn refuses_an_absurd_capacity() {
        let _ = channel::<u8>(usize::MAX);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::thread;

    /// More values than slots, so that slots are used again; loom's cells notice any access to a
    /// slot that is not ordered after the other side's.
    fn transfer(capacity: usize, values: u32) {
        loom::model(move || {
            let (mut producer, mut consumer) = channel(capacity);
            let other = thread::spawn(move || {
                for i in 0..values {
                    while producer.push(i).is_err() {
                        thread::yield_now();
                    }
                }
            });
            for i in 0..values {
                let value = loop {
                    if let Some(value) = consumer.pop() {
                        break value;
                    }
                    thread::yield_now();
                };
                assert_eq!(value, i);
            }
            assert!(consumer.is_empty());
            other.join().unwrap();
        });
    }

    #[test]
    fn one_slot_used_again() {
        transfer(1, 3);
    }

    #[test]
    fn two_slots_used_again() {
        transfer(2, 3);
    }

    /// Whoever sees that there is something also sees what was done before it was put in.
    #[test]
    fn a_value_in_sight_publishes_what_came_before() {
        loom::model(|| {
            let (mut producer, mut consumer) = channel(2);
            let before = Arc::new(AtomicUsize::new(0));
            let other = {
                let before = Arc::clone(&before);
                thread::spawn(move || {
                    before.store(1, Ordering::Relaxed);
                    producer.push(1).unwrap();
                    producer.push(2).unwrap();
                })
            };
            if !consumer.is_empty() {
                assert_eq!(before.load(Ordering::Relaxed), 1);
                assert_eq!(consumer.pop(), Some(1));
            }
            other.join().unwrap();
            assert!(!consumer.is_empty());
        });
    }
}
