//! Tables for people: columns as wide as needed, the last one wrapped at the width of the terminal.

use std::io::{self, IsTerminal};

use rustix::termios::tcgetwinsize;

/// The width where standard output is no terminal, and on a terminal that does not report one.
const USUAL_WIDTH: usize = 80;
/// The last column is never narrower, whatever the others take.
const LEAST_WRAPPED: usize = 16;

/// Characters in a line of standard output.
pub(crate) fn width() -> usize {
    let stdout = io::stdout();
    let size = stdout.is_terminal().then(|| tcgetwinsize(&stdout).ok()).flatten();
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(USUAL_WIDTH)
}

/// Rows of text under headings.
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

/// A heading and on which side the column's text is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Column {
    Left(&'static str),
    Right(&'static str),
}

impl Column {
    fn heading(self) -> &'static str {
        match self {
            Column::Left(heading) | Column::Right(heading) => heading,
        }
    }

    fn pad(self, cell: &str, width: usize) -> String {
        match self {
            Column::Left(_) => format!("{cell:<width$}"),
            Column::Right(_) => format!("{cell:>width$}"),
        }
    }
}

impl Table {
    pub(crate) fn new(columns: Vec<Column>) -> Self {
        Table { columns, rows: Vec::new() }
    }

    /// Adds a row with one text a column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The heading and the rows, without blanks at the ends of lines. A row has several lines where its last cell is
    /// wrapped at `width`; without one, no cell is.
    pub(crate) fn lines(&self, width: Option<usize>) -> (String, Vec<String>) {
        let headings: Vec<String> =
            self.columns.iter().map(|column| column.heading().to_owned()).collect();
        let widths: Vec<usize> =
            (0..self.columns.len()).map(|column| self.widest(column)).collect();
        let last = widths.len().saturating_sub(1);
        let before = widths.iter().take(last).map(|width| width + 2).sum::<usize>();
        let left = width.map(|width| width.saturating_sub(before).max(LEAST_WRAPPED));
        let line = |cells: &[String]| {
            let (end, cells) = match cells.split_last() {
                Some((end, cells)) => (end.as_str(), cells),
                None => ("", cells),
            };
            let padded = cells.iter().zip(&self.columns).zip(&widths);
            let mut text: String =
                padded.map(|((cell, column), &width)| column.pad(cell, width) + "  ").collect();
            let wrapped = left.map_or_else(|| vec![end.to_owned()], |left| wrap(end, left));
            for (number, part) in wrapped.iter().enumerate() {
                if number > 0 {
                    text.push('\n');
                    text.push_str(&" ".repeat(before));
                }
                match self.columns.last() {
                    Some(column @ Column::Right(_)) => {
                        text.push_str(&column.pad(part, widths.last().copied().unwrap_or(0)));
                    }
                    _ => text.push_str(part),
                }
            }
            text.trim_end().to_owned()
        };
        (line(&headings), self.rows.iter().map(|row| line(row)).collect())
    }

    fn widest(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        let heading = self.columns.get(column).map_or(0, |column| column.heading().chars().count());
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(heading)
    }
}

/// Lines of at most `width` characters, broken after commas; what is longer between two of them is broken at blanks.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for part in text.split_inclusive(", ").map(str::trim_end) {
        let whole = part.chars().count() <= width;
        let words: Vec<&str> = if whole { vec![part] } else { part.split(' ').collect() };
        for word in words {
            let Some(line) = lines.last_mut() else { continue };
            if line.is_empty() {
                line.push_str(word);
            } else if line.chars().count() + 1 + word.chars().count() <= width {
                line.push(' ');
                line.push_str(word);
            } else {
                lines.push(word.to_owned());
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_column_is_wrapped() {
        let mut table = Table::new(vec![Column::Right("#"), Column::Left("tags")]);
        let cell = "daily, mine (pinned), the upgrade of last week";
        table.row(vec!["0".into(), cell.into()]);
        table.row(vec!["10".into(), String::new()]);
        let wrapped = table.lines(Some(24));
        assert_eq!(wrapped.0, " #  tags");
        let lines = " 0  daily,\n    mine (pinned), the\n    upgrade of last week";
        assert_eq!(wrapped.1, [lines, "10"]);
        assert_eq!(table.lines(None).1, [&format!(" 0  {cell}"), "10"]);
    }

    #[test]
    fn numbers_in_the_last_column_stay_on_the_right() {
        let mut table = Table::new(vec![Column::Left("archive"), Column::Right("free")]);
        table.row(vec!["/a".into(), "1 B".into()]);
        assert_eq!(table.lines(Some(80)).1, ["/a        1 B"]);
    }
}
