//! Cuts text into lines, whole or piece by piece, for all kinds of text logs.

use super::LogError;
use super::builder::LogBuilder;

/// A longer line is not a record of scalars.
pub(super) const MAX_LINE_BYTES: usize = 16 << 20;

/// A line and where it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    /// Without its line break, and without NUL bytes at both ends. A file system that lost a page leaves NUL bytes, and
    /// so does truncating a log while it is being written.
    pub(super) text: &'a [u8],
    /// From 1.
    pub(super) number: usize,
    /// Whether a line break ends it. A last line without one was cut off or is being written.
    pub(super) is_ended: bool,
    /// Whether NUL bytes were removed.
    pub(super) had_nul: bool,
}

impl Line<'_> {
    pub(super) fn place(&self) -> String {
        format!("line {}", self.number)
    }

    pub(super) fn error(&self, message: impl Into<String>) -> LogError {
        LogError::Line { line: self.number, message: message.into() }
    }
}

/// A kind of text log.
pub(super) trait LineFormat {
    /// Reads one line, which may be blank.
    fn read_line(&mut self, line: Line<'_>, builder: &mut LogBuilder<'_>) -> Result<(), LogError>;

    /// Reads the lines that were kept in case more of their record follows.
    fn end(&mut self, _builder: &mut LogBuilder<'_>) -> Result<(), LogError> {
        Ok(())
    }
}

/// Cuts pieces of a file into lines.
#[derive(Debug, Default)]
pub(super) struct LineCutter {
    carry: Vec<u8>,
    is_too_long: bool,
    n_lines: usize,
}

impl LineCutter {
    /// Reads the lines that end in a piece; what follows the last line break waits for the next piece.
    pub(super) fn push(
        &mut self,
        mut piece: &[u8],
        format: &mut dyn LineFormat,
        builder: &mut LogBuilder<'_>,
    ) -> Result<(), LogError> {
        if self.n_lines == 0 && self.carry.is_empty() {
            piece = piece.strip_prefix(b"\xef\xbb\xbf").unwrap_or(piece);
        }
        while let Some(end) = memchr::memchr(b'\n', piece) {
            let (line, rest) = piece.split_at(end);
            piece = rest.get(1..).unwrap_or_default();
            if self.carry.is_empty() && !self.is_too_long {
                self.read(line, true, format, builder)?;
            } else {
                self.keep(line);
                let line = std::mem::take(&mut self.carry);
                self.read(&line, true, format, builder)?;
            }
        }
        self.keep(piece);
        Ok(())
    }

    /// Reads the last line if no line break ends it, and then ends the format.
    pub(super) fn end(&mut self, format: &mut dyn LineFormat, builder: &mut LogBuilder<'_>) -> Result<(), LogError> {
        let line = std::mem::take(&mut self.carry);
        if !line.is_empty() || self.is_too_long {
            self.read(&line, false, format, builder)?;
        }
        format.end(builder)
    }

    fn keep(&mut self, part: &[u8]) {
        self.is_too_long |= self.carry.len() + part.len() > MAX_LINE_BYTES;
        if self.is_too_long {
            self.carry = Vec::new();
        } else {
            self.carry.extend_from_slice(part);
        }
    }

    fn read(
        &mut self,
        text: &[u8],
        is_ended: bool,
        format: &mut dyn LineFormat,
        builder: &mut LogBuilder<'_>,
    ) -> Result<(), LogError> {
        self.n_lines += 1;
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let mut line = Line { text, number: self.n_lines, is_ended, had_nul: false };
        if std::mem::take(&mut self.is_too_long) || text.len() > MAX_LINE_BYTES {
            builder.count_damage(&line.place(), line.error(format!("it is longer than {MAX_LINE_BYTES} bytes")));
            return Ok(());
        }
        if line.text.first() == Some(&0) || line.text.last() == Some(&0) {
            line.text = trim_nul(line.text);
            line.had_nul = true;
        }
        format.read_line(line, builder)
    }
}

/// Text without the NUL bytes at both ends.
pub(super) fn trim_nul(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| *byte != 0).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| *byte != 0).map_or(start, |last| last + 1);
    text.get(start..end).unwrap_or_default()
}

/// Reads text that is completely in memory.
pub(super) fn read_text(
    bytes: &[u8],
    format: &mut dyn LineFormat,
    builder: &mut LogBuilder<'_>,
) -> Result<(), LogError> {
    let mut cutter = LineCutter::default();
    cutter.push(bytes, format, builder)?;
    cutter.end(format, builder)
}
