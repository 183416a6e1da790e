//! How a text that is longer than the context is cut into windows, each scored token once.

/// A run of a text through a model: tokens `start..end` are read, and of tokens `first_scored..=end` each is predicted
/// from those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenWindow {
    /// First token read.
    pub(crate) start: usize,
    /// One past the last token read; the token there is the last that is scored.
    pub(crate) end: usize,
    /// First token that is scored.
    pub(crate) first_scored: usize,
}

impl TokenWindow {
    pub(crate) const fn n_inputs(&self) -> usize {
        self.end - self.start
    }
}

/// Windows over a text of `n_tokens` tokens, scored from token `first_scored` (at least 1) on.
///
/// A window reads at most `context_length` tokens, and the next begins `stride` tokens later, so that each scored token
/// but those of the first window has at least `context_length - stride` tokens before it. What fits is one window with
/// as much context as there is room for.
pub(crate) fn token_windows(
    n_tokens: usize,
    first_scored: usize,
    context_length: usize,
    stride: usize,
) -> Vec<TokenWindow> {
    let Some(last) = n_tokens.checked_sub(1).filter(|&last| last >= first_scored && first_scored > 0) else {
        return Vec::new();
    };
    let n_scored = last + 1 - first_scored;
    let mut start = if n_scored <= stride || last <= context_length {
        last.saturating_sub(context_length)
    } else {
        (first_scored - 1 + stride).saturating_sub(context_length)
    };
    let mut windows = Vec::new();
    let mut next = first_scored;
    while next <= last {
        let end = last.min(start + context_length);
        windows.push(TokenWindow { start, end, first_scored: next });
        next = end + 1;
        start += stride;
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(n_tokens: usize, first_scored: usize, context_length: usize, stride: usize) -> Vec<(usize, usize, usize)> {
        let windows = token_windows(n_tokens, first_scored, context_length, stride);
        windows.into_iter().map(|window| (window.start, window.end, window.first_scored)).collect()
    }

    #[test]
    fn what_fits_is_one_window() {
        assert_eq!(cut(5, 1, 8, 8), [(0, 4, 1)]);
        assert_eq!(cut(9, 1, 8, 8), [(0, 8, 1)]);
        assert_eq!(cut(9, 7, 8, 4), [(0, 8, 7)]);
        assert_eq!(cut(1, 1, 8, 8), []);
        assert_eq!(cut(0, 1, 8, 8), []);
    }

    #[test]
    fn long_documents_advance_by_the_stride() {
        assert_eq!(cut(20, 1, 8, 8), [(0, 8, 1), (8, 16, 9), (16, 19, 17)]);
        assert_eq!(cut(20, 1, 8, 4), [(0, 8, 1), (4, 12, 9), (8, 16, 13), (12, 19, 17)]);
    }

    #[test]
    fn a_short_continuation_keeps_the_end_of_a_long_context() {
        assert_eq!(cut(20, 18, 8, 4), [(11, 19, 18)]);
        assert_eq!(cut(20, 16, 8, 4), [(11, 19, 16)]);
    }

    #[test]
    fn every_scored_token_is_scored_once_with_the_context_that_is_promised() {
        for n_tokens in 1..40 {
            for first_scored in 1..n_tokens {
                for (context_length, stride) in [(2, 1), (2, 2), (8, 1), (8, 3), (8, 8), (16, 8)] {
                    let windows = token_windows(n_tokens, first_scored, context_length, stride);
                    let mut next = first_scored;
                    for (i, window) in windows.iter().enumerate() {
                        assert_eq!(window.first_scored, next);
                        assert!(window.start < window.first_scored && window.first_scored <= window.end);
                        assert!(window.n_inputs() <= context_length && window.end < n_tokens);
                        let n_before = window.first_scored - window.start;
                        assert!(i == 0 || n_before > context_length - stride, "{n_tokens} {first_scored} {window:?}");
                        next = window.end + 1;
                    }
                    assert_eq!(next, n_tokens);
                }
            }
        }
    }
}
