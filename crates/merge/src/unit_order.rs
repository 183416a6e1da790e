//! In which order the threads of a merge take its units. Results do not depend on it.
//!
//! A file system lets one thread at a time write to a file. With many threads that would be the limit, because
//! neighbouring units go into one file of the output: so they work at several places at once, which are in different
//! files where the output has shards.
//!
//! What is compressed can only be read from its beginning, so that threads that read it side by side would wait for
//! each other: there each thread has its place.

/// Threads that one file of an output keeps busy: they read several sources for each write. Estimated, not measured.
const THREADS_PER_PLACE: usize = 16;

/// The order of units.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnitOrder {
    n_units: usize,
    n_places: usize,
}

impl UnitOrder {
    /// The order for `n_threads` threads. `most_places` is the least that a source says of its places, if one does.
    pub(crate) fn new(n_units: usize, n_threads: usize, most_places: Option<usize>) -> Self {
        let n_places = match most_places {
            Some(most_places) => n_threads.min(most_places),
            None => n_threads.div_ceil(THREADS_PER_PLACE),
        };
        Self { n_units, n_places: n_places.max(1) }
    }

    /// Units between two places.
    fn stride(self) -> usize {
        self.n_units.div_ceil(self.n_places)
    }

    /// How many turns there are; some have no unit.
    pub(crate) fn n_turns(self) -> usize {
        self.stride() * self.n_places
    }

    /// The unit whose turn it is.
    pub(crate) fn unit_at(self, turn: usize) -> Option<usize> {
        let unit_idx = turn % self.n_places * self.stride() + turn / self.n_places;
        (turn < self.n_turns() && unit_idx < self.n_units).then_some(unit_idx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_has_one_turn() {
        for n_threads in [1, 2, 16, 17, 64, 200] {
            for n_units in [0, 1, 2, 7, 100, 101] {
                let order = UnitOrder::new(n_units, n_threads, n_units.is_multiple_of(2).then_some(12));
                let mut units: Vec<usize> = (0..order.n_turns()).filter_map(|turn| order.unit_at(turn)).collect();
                units.sort_unstable();
                assert_eq!(units, (0..n_units).collect::<Vec<_>>(), "{n_threads} threads, {n_units} units");
                assert_eq!(order.unit_at(order.n_turns()), None);
            }
        }
    }

    #[test]
    fn few_threads_take_units_in_turn_and_many_work_at_several_places() {
        let first = |n_threads| {
            (0..4).filter_map(|turn| UnitOrder::new(100, n_threads, None).unit_at(turn)).collect::<Vec<_>>()
        };
        assert_eq!(first(16), [0, 1, 2, 3]);
        assert_eq!(first(64), [0, 25, 50, 75]);
        let packed = UnitOrder::new(100, 64, Some(2));
        assert_eq!([0, 1, 2].map(|turn| packed.unit_at(turn)), [Some(0), Some(50), Some(1)]);
    }
}
