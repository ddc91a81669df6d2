//! Which faults there are at the moment, and what they do to a chunk of bytes.

use std::num::NonZeroU64;
use std::time::Duration;

use super::Direction;

/// The faults that are switched on.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) latency: Duration,
    pub(super) half_open: bool,
    pub(super) partitioned: bool,
    pub(super) replies: Replies,
    /// So many bytes may still pass in this direction.
    pub(super) limit: Option<(Direction, u64)>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Replies {
    #[default]
    Pass,
    /// All of them, and the connection with this one, counted on each connection.
    Lose { reset_at: Option<NonZeroU64> },
    /// The one after those that still pass, and its connection.
    LoseOne { passing: u64 },
}

/// A chunk that came in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub(super) direction: Direction,
    pub(super) bytes: u64,
    /// Whether the other side was the last to speak on this connection.
    pub(super) starts_burst: bool,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    Swallow,
    /// So many bytes pass; then the connection is reset.
    Reset {
        passing: u64,
    },
}

impl Faults {
    /// Decides on one chunk. `lost` counts the replies that its connection has lost.
    pub(super) fn judge(&mut self, chunk: Chunk, lost: &mut u64) -> Verdict {
        if self.half_open {
            return Verdict::Swallow;
        }
        let verdict = match chunk.direction {
            Direction::ToClient => self.judge_reply(chunk.starts_burst, lost),
            Direction::ToServer => Verdict::Pass,
        };
        match &mut self.limit {
            Some((direction, left))
                if *direction == chunk.direction && verdict == Verdict::Pass =>
            {
                let passing = *left;
                if chunk.bytes > passing {
                    self.limit = None;
                    return Verdict::Reset { passing };
                }
                *left -= chunk.bytes;
                Verdict::Pass
            }
            _ => verdict,
        }
    }

    fn judge_reply(&mut self, starts_burst: bool, lost: &mut u64) -> Verdict {
        match &mut self.replies {
            Replies::Pass => Verdict::Pass,
            Replies::Lose { reset_at } => {
                *lost += u64::from(starts_burst);
                match reset_at {
                    Some(count) if *lost >= count.get() => Verdict::Reset { passing: 0 },
                    _ => Verdict::Swallow,
                }
            }
            // The rest of a reply that has begun to pass.
            Replies::LoseOne { .. } if !starts_burst => Verdict::Pass,
            Replies::LoseOne { passing: 0 } => {
                self.replies = Replies::Pass;
                Verdict::Reset { passing: 0 }
            }
            Replies::LoseOne { passing } => {
                *passing -= 1;
                Verdict::Pass
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(direction: Direction, bytes: u64, starts_burst: bool) -> Chunk {
        Chunk { direction, bytes, starts_burst }
    }

    fn judge_replies(replies: Replies, bursts: &[bool]) -> Vec<Verdict> {
        let mut faults = Faults { replies, ..Faults::default() };
        let mut lost = 0;
        let judge = |starts: &bool| faults.judge(chunk(Direction::ToClient, 9, *starts), &mut lost);
        bursts.iter().map(judge).collect()
    }

    #[test]
    fn only_the_chosen_reply_is_lost() {
        let verdicts = judge_replies(Replies::LoseOne { passing: 1 }, &[true, false, true, true]);
        let reset = Verdict::Reset { passing: 0 };
        assert_eq!(verdicts, [Verdict::Pass, Verdict::Pass, reset, Verdict::Pass]);
    }

    #[test]
    fn a_reply_in_pieces_counts_once_as_lost() {
        let replies = Replies::Lose { reset_at: NonZeroU64::new(2) };
        let verdicts = judge_replies(replies, &[true, false, true]);
        let reset = Verdict::Reset { passing: 0 };
        assert_eq!(verdicts, [Verdict::Swallow, Verdict::Swallow, reset]);
    }

    #[test]
    fn the_limit_on_bytes_is_exact_and_then_over() {
        let limit = Some((Direction::ToServer, 10));
        let mut faults = Faults { limit, ..Faults::default() };
        let mut judge = |direction, bytes| faults.judge(chunk(direction, bytes, true), &mut 0);
        assert_eq!(judge(Direction::ToServer, 4), Verdict::Pass);
        assert_eq!(judge(Direction::ToClient, 99), Verdict::Pass);
        assert_eq!(judge(Direction::ToServer, 6), Verdict::Pass);
        assert_eq!(judge(Direction::ToServer, 1), Verdict::Reset { passing: 0 });
        assert_eq!(judge(Direction::ToServer, 99), Verdict::Pass);
    }
}
