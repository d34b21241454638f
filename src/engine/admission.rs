//! Who may send to one device: grants that hold an incast back to the rate of the receiver's link.
//!
//! Every sender may send a little unasked. One that has more tells how much it wants in all, and
//! is granted bytes as bytes arrive: what has been granted and has not arrived, of all senders
//! together, stays near one bandwidth-delay product, so the last link is kept full and its queue
//! short. Those who want more take turns. A sender that is alone gets so much in advance that only
//! its own window limits it: nobody is taxed who shares with nobody.
//!
//! Each class of urgency counts for itself: what the urgent one leaves free of the link comes in
//! gaps, and can only be used if something less urgent waits for them right before the link.
//!
//! The receiver's word is cumulative, bytes of the link since it began, so a grant that is lost or
//! comes twice does no harm.

use std::collections::VecDeque;

use crate::units::Bytes;

/// Classes of urgency, the most urgent first.
pub const CLASSES: usize = 4;

/// What a device's admission is like.
#[derive(Debug, Clone, Copy)]
pub struct AdmissionConfig {
    /// Bytes that the device's link carries in a round trip.
    pub bdp: Bytes,
    /// Granted at a time, while several want something: each grant is a frame.
    pub quantum: Bytes,
    /// What every sender may send unasked, however many there are: a chunk or two.
    pub unasked_min: Bytes,
}

/// One link into the device.
#[derive(Debug, Clone, Copy, Default)]
struct Member {
    class: usize,
    present: bool,
    /// Cumulative bytes of the link.
    received: u64,
    wanted: u64,
    granted: u64,
    /// It has receives posted.
    expects: bool,
    queued: bool,
    /// Bytes that have arrived since it last had to share.
    unshared: u64,
}

impl Member {
    fn is_active(&self) -> bool {
        self.present && self.wanted > self.received
    }

    fn outstanding(&self) -> u64 {
        self.granted.saturating_sub(self.received)
    }
}

/// What the members of a class want together.
#[derive(Debug, Clone, Copy, Default)]
struct Class {
    /// Members that want something.
    active: u32,
    /// What those have been granted and has not arrived. Of each no more than most of a round
    /// trip counts, so that one who was granted much while alone does not keep others out.
    outstanding: u64,
    /// Members with posted receives.
    expecting: u32,
}

/// The grants of one device.
#[derive(Debug)]
pub struct Admission {
    config: AdmissionConfig,
    members: Vec<Member>,
    turns: [VecDeque<u32>; CLASSES],
    classes: [Class; CLASSES],
    /// Members whose unasked allowance is to be renewed.
    renewals: VecDeque<u32>,
}

impl Admission {
    /// Nobody sends yet.
    #[must_use]
    pub fn new(config: AdmissionConfig) -> Self {
        Self {
            config,
            members: Vec::new(),
            turns: Default::default(),
            classes: [Class::default(); CLASSES],
            renewals: VecDeque::new(),
        }
    }

    /// A link into the device; the answer names it.
    pub fn join(&mut self, class: u8) -> u32 {
        self.members.push(Member {
            class: usize::from(class).min(CLASSES - 1),
            present: true,
            ..Member::default()
        });
        u32::try_from(self.members.len() - 1).unwrap_or(u32::MAX)
    }

    /// The link is gone.
    pub fn leave(&mut self, member: u32) {
        self.change(member, |m| {
            m.present = false;
            m.expects = false;
        });
    }

    /// How far a link has come: bytes that arrived and bytes that its sender wants to send, both
    /// since it began, and whether receives are posted on it.
    pub fn update(&mut self, member: u32, received: u64, wanted: u64, expects: bool) {
        let before = self.members[member as usize].received;
        self.change(member, |m| {
            m.received = m.received.max(received);
            m.wanted = m.wanted.max(wanted);
            m.expects = expects;
        });
        let m = &mut self.members[member as usize];
        m.unshared += m.received - before;
        if m.wanted > m.granted {
            if !m.queued {
                m.queued = true;
                self.turns[m.class].push_back(member);
            }
        } else if m.wanted <= m.received {
            self.renewals.push_back(member);
        }
    }

    /// Keeps the sums while a member changes.
    fn change(&mut self, member: u32, how: impl FnOnce(&mut Member)) {
        let most = self.outstanding_max();
        let m = &mut self.members[member as usize];
        let class = &mut self.classes[m.class];
        if m.is_active() {
            class.active -= 1;
            class.outstanding -= m.outstanding().min(most);
        }
        class.expecting -= u32::from(m.expects);
        how(m);
        class.expecting += u32::from(m.expects);
        if m.is_active() {
            class.active += 1;
            class.outstanding += m.outstanding().min(most);
        }
    }

    /// No more of one member counts, and no member gets more while it shares.
    fn outstanding_max(&self) -> u64 {
        self.config.bdp.0 * 3 / 4
    }

    /// What a sender may send unasked, while so many others may do the same.
    fn unasked(&self, class: usize) -> u64 {
        let expecting = self.classes[class].expecting.max(1);
        let share = self.config.bdp.0 * 3 / 2 / u64::from(expecting);
        let least = self.config.unasked_min.0.max(1);
        (share / least * least).max(least)
    }

    /// The next grant: the link, and the bytes since its beginning that may be sent on it.
    pub fn poll_grant(&mut self) -> Option<(u32, u64)> {
        while let Some(member) = self.renewals.pop_front() {
            let m = self.members[member as usize];
            let unasked = self.unasked(m.class);
            let allowed = m.received + unasked;
            // Told only when it matters: every grant is a frame.
            if m.present
                && m.expects
                && m.wanted <= m.received
                && allowed >= m.granted + unasked.div_ceil(2)
            {
                self.change(member, |m| m.granted = allowed);
                return Some((member, allowed));
            }
        }
        (0..CLASSES).find_map(|class| self.grant_in(class))
    }

    fn grant_in(&mut self, class: usize) -> Option<(u32, u64)> {
        let bdp = self.config.bdp.0;
        let mut passed = 0;
        while let Some(&member) = self.turns[class].front() {
            let m = self.members[member as usize];
            if !m.present || m.wanted <= m.granted {
                self.turns[class].pop_front();
                self.members[member as usize].queued = false;
                continue;
            }
            let together = self.classes[class];
            let step = if together.active > 1 {
                self.members[member as usize].unshared = 0;
                if together.outstanding >= bdp * 3 / 2 {
                    return None;
                }
                if m.outstanding() >= self.outstanding_max() {
                    passed += 1;
                    self.turns[class].rotate_left(1);
                    if passed >= self.turns[class].len() {
                        return None;
                    }
                    continue;
                }
                self.config.quantum.0
            } else {
                // Alone it is told seldom and much; the longer it has been alone, the less likely
                // it is that another is about to come.
                let ahead = if together.expecting <= 1 {
                    bdp * 4
                } else {
                    (bdp * 3 / 2 + m.unshared).min(bdp * 4)
                };
                let step = ahead.saturating_sub(m.outstanding());
                if step < ahead / 2 && m.wanted - m.granted > step {
                    return None;
                }
                step
            };
            let granted = (m.granted + step).min(m.wanted);
            self.change(member, |m| m.granted = granted);
            self.turns[class].rotate_left(1);
            return Some((member, granted));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: AdmissionConfig = AdmissionConfig {
        bdp: Bytes(400_000),
        quantum: Bytes(32_768),
        unasked_min: Bytes(32_768),
    };

    fn granted(admission: &mut Admission) -> Vec<(u32, u64)> {
        std::iter::from_fn(|| admission.poll_grant()).collect()
    }

    #[test]
    fn one_alone_is_not_held_back() {
        let mut admission = Admission::new(CONFIG);
        let link = admission.join(1);
        admission.update(link, 0, 0, true);
        let unasked = granted(&mut admission);
        assert_eq!(unasked, [(link, 600_000 / 32_768 * 32_768)]);
        let mut allowed = unasked[0].1;
        // What is granted stays well ahead of what arrives, and few words are needed.
        let mut words = 0;
        let wanted = 64 << 20;
        for arrived in (0..wanted).step_by(32_768) {
            admission.update(link, arrived, wanted, true);
            for (_, bytes) in granted(&mut admission) {
                allowed = bytes;
                words += 1;
            }
            assert!(
                allowed >= wanted.min(arrived + 400_000),
                "{arrived}: {allowed}"
            );
        }
        assert!(words < 400, "{words} grants for 2048 chunks");
    }

    #[test]
    fn an_incast_takes_turns_within_one_round_trip() {
        let mut admission = Admission::new(CONFIG);
        let links: Vec<u32> = (0..32).map(|_| admission.join(1)).collect();
        let mut allowed = [0u64; 32];
        let mut arrived = [0u64; 32];
        let wanted = 2 << 20;
        for &link in &links {
            admission.update(link, 0, 0, true);
        }
        for (link, bytes) in granted(&mut admission) {
            allowed[link as usize] = bytes;
        }
        for &link in &links {
            admission.update(link, 0, wanted, true);
        }
        let mut turn = 0;
        while arrived.iter().any(|&bytes| bytes < wanted) {
            for (link, bytes) in granted(&mut admission) {
                allowed[link as usize] = bytes;
            }
            // The network delivers from one after the other.
            let next = (0..32)
                .map(|k| (turn + k) % 32)
                .find(|&i| arrived[i] < allowed[i]);
            let i = next.expect("somebody may always send");
            turn = i + 1;
            arrived[i] = (arrived[i] + 32_768).min(allowed[i]);
            admission.update(links[i], arrived[i], wanted, true);
            let outstanding: u64 = allowed.iter().zip(&arrived).map(|(a, b)| a - b).sum();
            assert!(outstanding <= 32 * 32_768 + 500_000, "{outstanding}");
            let (most, least) = (arrived.iter().max().unwrap(), arrived.iter().min().unwrap());
            assert!(most - least <= 4 * 32_768, "{most} and {least}");
        }
    }

    #[test]
    fn classes_do_not_hold_each_other_back() {
        let mut admission = Admission::new(CONFIG);
        let bulk = [admission.join(2), admission.join(2)];
        let urgent = admission.join(1);
        for link in bulk.into_iter().chain([urgent]) {
            admission.update(link, 0, 10 << 20, true);
        }
        let grants = granted(&mut admission);
        let of = |link| {
            let its = grants.iter().filter(|&&(l, _)| l == link);
            its.map(|g| g.1).max().unwrap_or(0)
        };
        assert_eq!(grants[0].0, urgent, "it comes first");
        assert_eq!(of(urgent), 4 * 400_000, "it is alone in its class");
        let shared = of(bulk[0]) + of(bulk[1]);
        assert!((600_000..800_000).contains(&shared), "{grants:?}");
        admission.leave(bulk[1]);
        let grants = granted(&mut admission);
        assert!(grants.iter().all(|&(link, _)| link == bulk[0]) && !grants.is_empty());
    }
}
