//! The memo of a pickle: values by number. Programs count from 0, so nearly all of it is one list.

use std::collections::BTreeMap;

/// Values by number.
#[derive(Debug, Default)]
pub(super) struct Memo {
    /// The values of the first numbers.
    dense: Vec<u32>,
    /// Those of other numbers, which a program may choose freely.
    sparse: BTreeMap<u32, u32>,
}

impl Memo {
    /// How many numbers have a value.
    pub(super) fn len(&self) -> u64 {
        (self.dense.len() + self.sparse.len()) as u64
    }

    pub(super) fn get(&self, number: u32) -> Option<u32> {
        self.dense.get(number as usize).or_else(|| self.sparse.get(&number)).copied()
    }

    pub(super) fn insert(&mut self, number: u32, value: u32) {
        if let Some(known) = self.dense.get_mut(number as usize) {
            *known = value;
        } else if self.dense.len() == number as usize {
            self.dense.push(value);
            if !self.sparse.is_empty() {
                self.sparse.remove(&number);
            }
        } else {
            self.sparse.insert(number, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_a_map_holds() {
        let mut memo = Memo::default();
        let mut expected = BTreeMap::new();
        for (i, number) in [0, 1, 5, 2, 3, u32::MAX, 4, 5, 6, 1, 5, 9, 7, 8, 9].into_iter().enumerate() {
            let value = u32::try_from(i).unwrap() + 100;
            memo.insert(number, value);
            expected.insert(number, value);
            assert_eq!(memo.len(), expected.len() as u64);
            for number in (0..12).chain([u32::MAX]) {
                assert_eq!(memo.get(number), expected.get(&number).copied(), "{number} after {i}");
            }
        }
    }
}
