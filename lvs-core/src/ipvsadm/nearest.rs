//! The known word nearest to a misspelt one, by edit distance.

/// Longer words get no suggestion: the distance costs the product of both lengths.
const LONGEST_WORD: usize = 32;

/// Returns the candidate that `word` most likely meant: at most two edits away and sharing some letter.
pub(super) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let word: Vec<char> = word.chars().take(LONGEST_WORD + 1).collect();
    if word.is_empty() || word.len() > LONGEST_WORD {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|&(edits, candidate)| edits <= 2 && edits < word.len().max(candidate.len()))
        .min_by_key(|&(edits, _)| edits)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace) from `a` to `b`.
fn distance(a: &[char], b: &str) -> usize {
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (j, letter) in b.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = j + 1;
        for i in 0..a.len() {
            let replaced = diagonal + usize::from(a[i] != letter);
            diagonal = row[i + 1];
            row[i + 1] = replaced.min(diagonal + 1).min(row[i] + 1);
        }
    }
    row[a.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_single_edits() {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        assert_eq!(distance(&chars("weight"), "weight"), 0);
        assert_eq!(distance(&chars("wieght"), "weight"), 2);
        assert_eq!(distance(&chars("wight"), "weight"), 1);
        assert_eq!(distance(&chars(""), "rr"), 2);
    }

    #[test]
    fn suggests_only_what_is_near() {
        assert_eq!(nearest("wrrr", ["rr", "wrr", "wlc"]), Some("wrr"));
        assert_eq!(nearest("fastest", ["rr", "wrr", "wlc"]), None);
        assert_eq!(nearest("q", ["m", "w"]), None);
        assert_eq!(nearest(&"w".repeat(100_000), ["w"]), None);
    }
}
