//! The one writer of tables: columns as wide as they must be, and no line wider than [`WIDTH`].

use unicode_width::UnicodeWidthStr as _;

use super::terminal::{Paint, Style, safe};

/// Columns that a table takes at most: what still fits a half of a wide screen, and a bug report.
pub const WIDTH: usize = 100;

/// Between two columns.
const GAP: usize = 2;

/// No column gets narrower than this for others' sake.
const NARROWEST: usize = 8;

/// How far a note stands in.
const INDENT: usize = 4;

/// One cell: a line for each of its values. Where the table gets too wide a line is wrapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    lines: Vec<String>,
    paint: Option<Paint>,
}

/// A table of `N` columns.
#[derive(Clone, Debug)]
pub struct Table<const N: usize> {
    headings: [Cell; N],
    rows: Vec<Row<N>>,
    /// The column that is wrapped before all others, and how narrow it gets for that.
    first_to_wrap: Option<(usize, usize)>,
}

#[derive(Clone, Debug)]
enum Row<const N: usize> {
    Cells([Cell; N]),
    Note(String, Option<Paint>),
}

// === impl Cell ===

impl Cell {
    /// One with a line for each of these.
    pub fn lines<T: AsRef<str>>(lines: impl IntoIterator<Item = T>) -> Self {
        let lines = lines.into_iter().map(|line| safe(line.as_ref()).into_owned()).collect();
        Self { lines, paint: None }
    }

    /// The same in a colour.
    #[must_use]
    pub fn painted(self, paint: Paint) -> Self {
        Self { paint: Some(paint), ..self }
    }

    fn width(&self) -> usize {
        self.lines.iter().map(|line| line.width()).max().unwrap_or_default()
    }

    fn wrapped(&self, width: usize) -> Vec<String> {
        self.lines.iter().flat_map(|line| wrap(line, width)).collect()
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::lines([text])
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::lines([text])
    }
}

// === impl Table ===

impl<const N: usize> Table<N> {
    /// One without rows.
    #[must_use]
    pub fn new(headings: [&str; N]) -> Self {
        let headings = headings.map(|heading| Cell::from(heading).painted(Paint::Heading));
        Self { headings, rows: Vec::new(), first_to_wrap: None }
    }

    /// Where the table gets too wide this column is wrapped first, down to `width`: one of words, for
    /// the sake of those with names that somebody copies.
    #[must_use]
    pub fn wrapping_first(self, column: usize, width: usize) -> Self {
        Self { first_to_wrap: Some((column, width)), ..self }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: [Cell; N]) {
        self.rows.push(Row::Cells(cells));
    }

    /// Adds a text to the last row, indented below it.
    pub fn note(&mut self, text: &str, paint: Option<Paint>) {
        self.rows.push(Row::Note(safe(text).into_owned(), paint));
    }

    /// As text.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        let widths = self.widths();
        let mut text = String::new();
        write_row(&self.headings, &widths, style, &mut text);
        for row in &self.rows {
            match row {
                Row::Cells(cells) => write_row(cells, &widths, style, &mut text),
                Row::Note(note, paint) => {
                    for line in wrap(note, WIDTH - INDENT) {
                        text.push_str(&" ".repeat(INDENT));
                        text.push_str(
                            &paint.map_or(line.clone(), |paint| style.paint(paint, &line)),
                        );
                        text.push('\n');
                    }
                }
            }
        }
        text
    }

    /// As wide as what stands in them; if that is too much, the widest give way.
    fn widths(&self) -> [usize; N] {
        let cells = || {
            let rows = self.rows.iter().filter_map(|row| match row {
                Row::Cells(cells) => Some(cells),
                Row::Note(..) => None,
            });
            rows.chain([&self.headings])
        };
        let mut widths: [usize; N] = std::array::from_fn(|column| {
            cells().map(|row| row[column].width()).max().unwrap_or_default()
        });
        let room = WIDTH.saturating_sub(GAP * N.saturating_sub(1));
        if let Some((column, narrowest)) = self.first_to_wrap {
            let excess = widths.iter().sum::<usize>().saturating_sub(room);
            let width = &mut widths[column];
            *width = (*width).min(narrowest.max(width.saturating_sub(excess)));
        }
        while widths.iter().sum::<usize>() > room {
            match widths.iter_mut().max() {
                Some(widest) if *widest > NARROWEST => *widest -= 1,
                _ => break,
            }
        }
        widths
    }
}

fn write_row<const N: usize>(
    cells: &[Cell; N],
    widths: &[usize; N],
    style: Style,
    text: &mut String,
) {
    let mut columns: Vec<_> = cells
        .iter()
        .zip(widths)
        .map(|(cell, width)| (cell.paint, *width, cell.wrapped(*width).into_iter()))
        .collect();
    let height = columns.iter().map(|(.., lines)| lines.len()).max().unwrap_or_default();
    for _ in 0..height {
        // Only what is followed by something is filled up: no line ends with blanks.
        let mut blanks = 0;
        for (paint, width, lines) in &mut columns {
            let line = lines.next().unwrap_or_default();
            if !line.is_empty() {
                text.push_str(&" ".repeat(blanks));
                text.push_str(&paint.map_or(line.clone(), |paint| style.paint(paint, &line)));
                blanks = 0;
            }
            blanks += width.saturating_sub(line.width()) + GAP;
        }
        text.push('\n');
    }
}

/// Breaks a line between words, and a word that is longer than a line where it must be.
pub(super) fn wrap(line: &str, width: usize) -> Vec<String> {
    if line.width() <= width {
        return vec![line.to_owned()];
    }
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in line.split(' ') {
        let needed = word.width();
        if used > 0 && used + 1 + needed > width {
            lines.push(String::new());
            used = 0;
        } else if used > 0 {
            push(&mut lines, " ");
            used += 1;
        }
        for c in word.chars() {
            let mut buffer = [0; 4];
            let c: &str = c.encode_utf8(&mut buffer);
            if used > 0 && used + c.width() > width {
                lines.push(String::new());
                used = 0;
            }
            push(&mut lines, c);
            used += c.width();
        }
    }
    lines
}

fn push(lines: &mut [String], text: &str) {
    if let Some(last) = lines.last_mut() {
        last.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_no_line_ends_with_blanks() {
        let mut table = Table::new(["NAME", "PORTS", "UID"]);
        table.row(["istio".into(), Cell::lines(["15001", "15006"]), "1337".into()]);
        table.row(["a-longer-name".into(), Cell::default(), "-".into()]);
        table.row(["b".into(), "1".into(), Cell::default()]);
        let expected = "\
NAME           PORTS  UID
istio          15001  1337
               15006
a-longer-name         -
b              1
";
        assert_eq!(table.render(Style::PLAIN), expected);
    }

    #[test]
    fn a_table_that_is_too_wide_wraps_its_widest_columns_and_loses_nothing() {
        let words = "the quick brown fox jumps over the lazy dog ".repeat(5);
        let mut table = Table::new(["A", "B", "C"]);
        table.row([words.trim().into(), "x".repeat(150).into(), "short".into()]);
        table.note(&words, None);
        let text = table.render(Style::PLAIN);
        assert!(text.lines().all(|line| line.width() <= WIDTH), "{text}");
        assert_eq!(text.matches('x').count() - text.matches("fox").count(), 150, "{text}");
        assert_eq!(text.matches("quick").count(), 10, "{text}");
        assert!(text.lines().any(|line| line.starts_with("    the quick")), "{text}");
    }

    #[test]
    fn a_column_of_words_is_wrapped_before_one_of_names() {
        let name = "n".repeat(40);
        let row = || [Cell::from(name.as_str()), "word ".repeat(30).trim().into(), "x".into()];
        let mut table = Table::new(["A", "B", "C"]).wrapping_first(1, 18);
        table.row(row());
        assert!(table.render(Style::PLAIN).contains(&name), "{}", table.render(Style::PLAIN));
        assert_eq!(table.widths(), [40, 55, 1], "no more than it must");
        let mut table = Table::new(["A", "B", "C"]).wrapping_first(1, 60);
        table.row(row());
        assert!(table.widths().iter().sum::<usize>() + 2 * GAP <= WIDTH);
    }

    #[test]
    fn words_stay_whole_where_they_can() {
        assert_eq!(wrap("aa bbb c", 4), ["aa", "bbb", "c"]);
        assert_eq!(wrap("aa bbb c", 5), ["aa", "bbb c"]);
        assert_eq!(wrap("a bcdefgh", 4), ["a", "bcde", "fgh"]);
        assert_eq!(wrap("日本語", 4), ["日本", "語"]);
        assert_eq!(wrap("", 4), [""]);
    }

    #[test]
    fn what_a_tenant_calls_something_does_not_act_and_wide_letters_keep_the_columns() {
        let mut table = Table::new(["NAME", "X"]);
        table.row(["a\x1b[2J\nb".into(), "1".into()]);
        table.row(["日本".into(), "2".into()]);
        table.note("c\x07", Some(Paint::Bad));
        let expected = "\
NAME           X
a\\u{1b}[2J\\nb  1
日本           2
    c\\u{7}
";
        assert_eq!(table.render(Style::PLAIN), expected);
    }

    #[test]
    fn colours_take_no_room() {
        let mut table = Table::new(["A", "B"]);
        table.row([Cell::from("ok").painted(Paint::Good), "x".into()]);
        let text = table.render(Style::COLOURED);
        assert_eq!(text, "\x1b[1mA\x1b[0m   \x1b[1mB\x1b[0m\n\x1b[32mok\x1b[0m  x\n");
    }

    #[test]
    fn more_columns_than_fit_get_what_they_need_at_least() {
        let mut table = Table::new(["H"; 20]);
        table.row(std::array::from_fn(|_| "0123456789".into()));
        let text = table.render(Style::PLAIN);
        assert_eq!(text.matches("01234567").count(), 20, "{text}");
    }
}
