//! Where the values of a pickle keep their members and their text: in a few long lists, because the metadata of a large
//! checkpoint has a million small containers, and an allocation for each takes longer than reading them.

use super::PickleFault;

/// A range of one of the lists.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn new(start: usize, len: usize) -> Result<Self, PickleFault> {
        let too_much = |_| PickleFault::TooMuch { what: "bytes of memory", limit: u32::MAX.into() };
        let end = u32::try_from(start.saturating_add(len)).map_err(too_much)?;
        let len = u32::try_from(len).map_err(too_much)?;
        Ok(Self { start: end - len, len })
    }

    fn range(self) -> std::ops::Range<usize> {
        let start = self.start as usize;
        start..start + self.len as usize
    }
}

/// A list that may grow: its members, and how many places are free behind them.
#[derive(Debug, Clone, Copy, Default)]
struct Room {
    members: Span,
    n_free: u32,
}

/// The lists. What was put into one stays as long as the arena.
#[derive(Debug, Default)]
pub(super) struct Arena {
    /// Numbers of values: members of all containers, those of dictionaries as keys and values in turn.
    ids: Vec<u32>,
    rooms: Vec<Room>,
    text: String,
    bytes: Vec<u8>,
}

impl Arena {
    /// Keeps members that never change.
    pub(super) fn keep_members(&mut self, members: &[u32]) -> Result<Span, PickleFault> {
        let span = Span::new(self.ids.len(), members.len())?;
        self.ids.extend_from_slice(members);
        Ok(span)
    }

    /// Members that were kept.
    pub(super) fn members(&self, span: Span) -> &[u32] {
        self.ids.get(span.range()).unwrap_or_default()
    }

    /// A list of these members that may grow; returns its number.
    pub(super) fn new_list(&mut self, members: &[u32]) -> Result<u32, PickleFault> {
        let number = Span::new(self.rooms.len(), 0)?.start;
        let room = Room { members: self.keep_members(members)?, n_free: 0 };
        self.rooms.push(room);
        Ok(number)
    }

    /// The members of a list that may grow.
    pub(super) fn list(&self, number: u32) -> &[u32] {
        self.rooms.get(number as usize).map(|room| self.members(room.members)).unwrap_or_default()
    }

    /// Appends members to a list. A list without room for them moves to the end with room for as many again, so that
    /// all moves together copy no more than the members that are there in the end.
    pub(super) fn extend_list(&mut self, number: u32, added: &[u32]) -> Result<(), PickleFault> {
        let Some(&Room { members, n_free }) = self.rooms.get(number as usize) else { return Ok(()) };
        let range = members.range();
        let grown = if added.len() <= n_free as usize {
            self.ids[range.end..range.end + added.len()].copy_from_slice(added);
            let grown = Span::new(range.start, range.len() + added.len())?;
            Room { members: grown, n_free: n_free - (grown.len - members.len) }
        } else if range.is_empty() {
            Room { members: self.keep_members(added)?, n_free: 0 }
        } else {
            let moved = Span::new(self.ids.len(), range.len() + added.len())?;
            let n_free = moved.len;
            let end = Span::new(moved.range().end, n_free as usize)?.range().end;
            self.ids.extend_from_within(range);
            self.ids.extend_from_slice(added);
            self.ids.resize(end, 0);
            Room { members: moved, n_free }
        };
        self.rooms[number as usize] = grown;
        Ok(())
    }

    /// Keeps a string.
    pub(super) fn keep_text(&mut self, text: &str) -> Result<Span, PickleFault> {
        let span = Span::new(self.text.len(), text.len())?;
        self.text.push_str(text);
        Ok(span)
    }

    /// A string that was kept.
    pub(super) fn text(&self, span: Span) -> &str {
        self.text.get(span.range()).unwrap_or_default()
    }

    /// Keeps a byte string.
    pub(super) fn keep_bytes(&mut self, bytes: &[u8]) -> Result<Span, PickleFault> {
        let span = Span::new(self.bytes.len(), bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(span)
    }

    /// A byte string that was kept.
    pub(super) fn bytes(&self, span: Span) -> &[u8] {
        self.bytes.get(span.range()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_grow_in_turn_keep_their_members() {
        let mut arena = Arena::default();
        let fixed = arena.keep_members(&[7, 8]).unwrap();
        let lists: Vec<u32> = (0..3).map(|_| arena.new_list(&[]).unwrap()).collect();
        let mut expected: Vec<Vec<u32>> = vec![Vec::new(); 3];
        for round in 0..200_u32 {
            for (list, expected) in lists.iter().zip(&mut expected) {
                let added: Vec<u32> = (0..(round * 7 + list) % 5).map(|i| round * 10 + i + list).collect();
                arena.extend_list(*list, &added).unwrap();
                expected.extend(added);
                assert_eq!(arena.list(*list), *expected);
            }
        }
        assert_eq!(arena.members(fixed), [7, 8]);
        // Twice the members for free room, and as much again that moves left behind.
        let n_members: usize = expected.iter().map(Vec::len).sum();
        assert!(arena.ids.len() <= 2 + 4 * n_members, "{} for {n_members}", arena.ids.len());
    }

    #[test]
    fn texts_and_bytes_are_given_back() {
        let mut arena = Arena::default();
        let texts: Vec<Span> = ["", "é", "abc"].iter().map(|text| arena.keep_text(text).unwrap()).collect();
        let bytes = arena.keep_bytes(&[0xff, 0]).unwrap();
        assert_eq!(texts.iter().map(|span| arena.text(*span)).collect::<Vec<_>>(), ["", "é", "abc"]);
        assert_eq!(arena.bytes(bytes), [0xff, 0]);
        assert_eq!(arena.list(9), [0_u32; 0]);
    }
}
