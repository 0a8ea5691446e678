//! Pieces of the page. All text goes through [`escape`]; what is not text is written here and nowhere else.

use std::fmt::Write;

use crate::report::Verdict;

/// Longest value of a list that is not broken into lines. Unit: letters.
const UNBROKEN_MAX: usize = 18;

/// Text as HTML, also within an attribute.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// Text in an element, with a class unless that is empty.
pub(super) fn element(name: &str, class: &str, text: &str) -> String {
    if class.is_empty() {
        return format!("<{name}>{}</{name}>\n", escape(text));
    }
    format!("<{name} class=\"{class}\">{}</{name}>\n", escape(text))
}

/// The verdict as a word on a colour.
pub(super) fn badge(verdict: Verdict) -> String {
    format!("<span class=\"badge {}\">{}</span>", class(verdict), verdict.words())
}

/// The class of a verdict's colour.
pub(super) const fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Clean => "clean",
        Verdict::Void => "void",
        Verdict::NotClean => "unclean",
    }
}

/// A box with a heading and a list of sentences; nothing when there are none.
pub(super) fn callout(class: &str, heading: &str, sentences: &[String]) -> String {
    if sentences.is_empty() {
        return String::new();
    }
    let items: String = sentences.iter().map(|sentence| element("li", "", sentence)).collect();
    format!("<div class=\"callout {class}\"><strong>{}</strong><ul>\n{items}</ul></div>\n", escape(heading))
}

/// A cell of a table.
#[derive(Debug, Clone)]
pub(super) enum Cell {
    /// To the left.
    Words(String),
    /// To the right.
    Number(String),
    /// Built here: a badge, a link.
    Markup(String),
}

/// A table that scrolls sideways within itself where it does not fit.
pub(super) fn table(heads: &[&str], rows: &[Vec<Cell>]) -> String {
    let mut text = String::from("<div class=\"scroll\"><table>\n<thead><tr>");
    let kinds = rows.first().map(Vec::as_slice).unwrap_or_default();
    for (index, head) in heads.iter().enumerate() {
        let number = matches!(kinds.get(index), Some(Cell::Number(_)));
        let class = if number { " class=\"n\"" } else { "" };
        // Writing into a String cannot fail.
        let _ = write!(text, "<th{class}>{}</th>", escape(head));
    }
    text.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        text.push_str("<tr>");
        for cell in row {
            let _ = match cell {
                Cell::Words(words) => write!(text, "<td>{}</td>", escape(words)),
                Cell::Number(number) => write!(text, "<td class=\"n\">{}</td>", escape(number)),
                Cell::Markup(markup) => write!(text, "<td>{markup}</td>"),
            };
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</tbody></table></div>\n");
    text
}

/// Names and values, two columns.
pub(super) fn list(pairs: &[(String, String)]) -> String {
    let items = pairs.iter().map(|(name, value)| {
        let class = if value.chars().count() <= UNBROKEN_MAX { " class=\"short\"" } else { "" };
        format!("<div><dt>{}</dt><dd{class}>{}</dd></div>\n", escape(name), escape(value))
    });
    format!("<dl>\n{}</dl>\n", items.collect::<String>())
}

/// Something that is folded up until it is wanted.
pub(super) fn folded(heading: &str, inside: &str) -> String {
    format!("<details><summary>{}</summary>\n{inside}</details>\n", escape(heading))
}
