//! Processor time of a process and its children, from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use crate::Error;

/// One clock tick of `/proc` on every Linux that Debian ships.
const TICK: Duration = Duration::from_millis(10);

/// User and system time so far, that of all its descendants included, whether they live or have
/// ended.
pub(crate) fn used(id: u32) -> Result<Duration, Error> {
    let mut all = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process may end between the listing and the look.
        let Ok(stat) = fs::read_to_string(format!("/proc/{process}/stat")) else { continue };
        let Some(stat) = Stat::parse(&stat) else { continue };
        all.insert(process, stat);
    }
    let belongs = |mut process: u32| {
        // A bound for a list that was read while it changed.
        for _ in 0..64 {
            if process == id {
                return true;
            }
            match all.get(&process) {
                Some(stat) => process = stat.parent,
                None => return false,
            }
        }
        false
    };
    let mine = all.iter().filter(|(process, _)| belongs(**process));
    Ok(TICK * mine.map(|(_, stat)| stat.ticks + stat.ended_children_ticks).sum::<u32>())
}

struct Stat {
    parent: u32,
    ticks: u32,
    ended_children_ticks: u32,
}

impl Stat {
    /// Fields are counted after the name, which stands in brackets and may hold anything.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let number = |index: usize| fields.get(index)?.parse::<u32>().ok();
        Some(Self {
            parent: number(1)?,
            ticks: number(11)? + number(12)?,
            ended_children_ticks: number(13)? + number(14)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let text = "7 (a) b) S 3 7 7 0 -1 4 0 0 0 0 21 9 4 1 20 0 1 0 5 0 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.parent, stat.ticks, stat.ended_children_ticks), (3, 30, 5));
    }
}
