//! The name that was probably meant by one that doesn't exist.

use super::Variable;

/// How many edits apart two names may be and still be taken for each other. More, and the
/// suggestion would be a guess.
const EDITS_MAX: usize = 3;

/// Which of `variables` is called most nearly like `name` (without the prefix), case aside; none
/// where even that is far away. Of equally near ones the first.
pub(super) fn nearest<'a>(
    name: &str,
    variables: impl Iterator<Item = &'a Variable>,
) -> Option<&'a Variable> {
    nearest_named(
        name,
        variables.map(|variable| (variable.bare_name(), variable)),
    )
}

/// The same for anything that has a name: that of a scenario's field or of an algorithm.
pub(crate) fn nearest_named<N: AsRef<str>, T>(
    name: &str,
    known: impl Iterator<Item = (N, T)>,
) -> Option<T> {
    // What is much longer than all names is near none of them; this also bounds the work.
    let written: Vec<char> = name.to_uppercase().chars().take(64).collect();
    known
        .map(|(candidate, item)| {
            let letters: Vec<char> = candidate.as_ref().to_uppercase().chars().collect();
            // A short name is within a few edits of anything.
            (
                edits(&written, &letters),
                EDITS_MAX.min(letters.len() / 2),
                item,
            )
        })
        .filter(|(edits, max, _)| edits <= max)
        .min_by_key(|(edits, ..)| *edits)
        .map(|(.., item)| item)
}

/// The least number of letters to insert, remove, replace, or swap with their neighbour, that
/// turns `from` into `to`.
fn edits(from: &[char], to: &[char]) -> usize {
    // Three rows of the table: its entry (i, j) is the distance of the first i letters of `from`
    // from the first j of `to`.
    let mut before_last = vec![0; to.len() + 1];
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (i, &a) in from.iter().enumerate() {
        let mut row = vec![i + 1; to.len() + 1];
        for (j, &b) in to.iter().enumerate() {
            let replaced = last[j] + usize::from(a != b);
            row[j + 1] = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a == to[j - 1] && from[i - 1] == b {
                row[j + 1] = row[j + 1].min(before_last[j - 1] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}
