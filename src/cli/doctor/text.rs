//! The report as text, for terminals of any width: words are wrapped, nothing is cut off.

#![allow(unsafe_code, reason = "an ioctl that says how wide the terminal is")]

use std::fmt::Write;
use std::io::{IsTerminal, stdout};

use super::{Finding, Report, Severity, count};

/// The width where there is no terminal.
const COLUMNS: usize = 80;
/// On a wider terminal lines would be too long to read.
const COLUMNS_MAX: usize = 100;
/// On a narrower one, or one that does not know its width, lines are longer than it.
const COLUMNS_MIN: usize = 20;

/// The labels of a finding's parts, and the room for them.
const LABEL: usize = 6;

/// The width of the terminal that standard output is.
pub(super) fn columns() -> usize {
    if !stdout().is_terminal() {
        return COLUMNS;
    }
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel writes a winsize there, and keeps no pointer.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    match usize::from(size.ws_col) {
        0 => COLUMNS,
        _ if result != 0 => COLUMNS,
        columns => columns.clamp(COLUMNS_MIN, COLUMNS_MAX),
    }
}

/// The whole report.
pub(super) fn text(report: &Report, columns: usize) -> String {
    let mut text = String::new();
    let heading = format!("{}, kernel {}", report.host, report.kernel);
    wrap(&mut text, "", &heading, columns, 2);
    for found in &report.findings {
        let label = match found.finding.severity {
            Severity::Problem => "PROBLEM",
            Severity::Warning => "WARNING",
            Severity::Note => "NOTE",
        };
        let _ = writeln!(text, "\n{label} {}", found.check);
        finding(&mut text, &found.finding, columns);
    }
    if !report.well.is_empty() {
        text.push_str("\nWell:\n");
    }
    for well in &report.well {
        wrap(
            &mut text,
            "  ",
            &format!("{}: {}", well.check, well.what),
            columns,
            4,
        );
    }
    if !report.not_checked.is_empty() {
        text.push_str("\nNot checked:\n");
    }
    for (why, checks) in reasons(report) {
        wrap(
            &mut text,
            "  ",
            &format!("{}: {why}", checks.join(", ")),
            columns,
            4,
        );
    }
    let summary = format!(
        "{}, {}, {}; {} well, {} not checked",
        count(report.problems, "problem"),
        count(report.warnings, "warning"),
        count(report.notes, "note"),
        count(report.well.len(), "check"),
        report.not_checked.len(),
    );
    text.push('\n');
    wrap(&mut text, "", &summary, columns, 0);
    text
}

/// Why some checks were not made, each reason once.
fn reasons(report: &Report) -> Vec<(&str, Vec<&str>)> {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for item in &report.not_checked {
        match reasons.iter_mut().find(|(why, _)| *why == item.why) {
            Some((_, checks)) => checks.push(item.check),
            None => reasons.push((&item.why, vec![item.check])),
        }
    }
    reasons
}

fn finding(text: &mut String, finding: &Finding, columns: usize) {
    wrap(text, "  ", &finding.what, columns, 2);
    let mut part = |label: &str, lines: &[String]| {
        for (at, line) in lines.iter().enumerate() {
            let label = if at == 0 { label } else { "" };
            let start = format!("  {label:<LABEL$}");
            wrap(text, &start, line, columns, 2 + LABEL);
        }
    };
    part("seen", &finding.evidence);
    part("why", std::slice::from_ref(&finding.why));
    part("fix", &finding.fix);
}

/// A paragraph: `start`, the words, and further lines that begin with `indent` blanks. A word that is
/// wider than the line has one of its own.
fn wrap(text: &mut String, start: &str, words: &str, columns: usize, indent: usize) {
    let mut line = start.to_owned();
    let mut is_empty = true;
    for word in words.split_whitespace() {
        let width = line.chars().count() + usize::from(!is_empty) + word.chars().count();
        if !is_empty && width > columns {
            let _ = writeln!(text, "{}", line.trim_end());
            line = " ".repeat(indent);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        // What a file says is shown as it is, but may not steer the terminal.
        line.extend(word.chars().map(|c| if c.is_control() { '?' } else { c }));
        is_empty = false;
    }
    let _ = writeln!(text, "{}", line.trim_end());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_wrapped_and_never_cut() {
        let mut text = String::new();
        wrap(
            &mut text,
            "  fix   ",
            "ip link set dev eth0 mtu 9000",
            24,
            8,
        );
        assert_eq!(text, "  fix   ip link set dev\n        eth0 mtu 9000\n");
        text.clear();
        wrap(&mut text, "", "a /very/long/name/of/a/file b", 10, 2);
        assert_eq!(text, "a\n  /very/long/name/of/a/file\n  b\n");
        text.clear();
        wrap(&mut text, "  ", "red\u{1b}[31m", 80, 2);
        assert_eq!(text, "  red?[31m\n");
    }

    proptest! {
        /// No line is wider than asked for, unless a single word is; and no word is lost.
        #[test]
        fn any_words_fit(words in prop::collection::vec("[a-z]{1,12}", 0..40), columns in 20_usize..100) {
            let mut text = String::new();
            wrap(&mut text, "  ", &words.join(" "), columns, 4);
            prop_assert!(text.lines().all(|line| line.len() <= columns));
            let kept: Vec<&str> = text.split_whitespace().collect();
            prop_assert_eq!(kept, words);
        }
    }
}
