//! Tables and labelled lines. Cells are never wrapped or cut: what is printed can be copied.

use comfy_table::{Attribute, Cell, Color as TableColor, ContentArrangement, Row, Table, TableStyle};

use super::paint::{Color, Painter, Styled};

/// Space after each column.
const GAP: u16 = 2;

/// Rows under a header.
pub fn columns(headers: &[&str], rows: Vec<Vec<Styled>>, painter: Painter) -> String {
    let mut table = new_table(painter);
    table.set_header(Row::from(
        headers.iter().map(|header| Cell::new(header).add_attribute(Attribute::Dim)).collect::<Vec<_>>(),
    ));
    for row in rows {
        table.add_row(Row::from(row.iter().map(cell).collect::<Vec<_>>()));
    }
    finish(table)
}

/// One `Label:  value` a line; empty values are left out. Lines after the first of a value are indented under it.
pub fn labelled(lines: &[(&'static str, Styled)], painter: Painter) -> String {
    let mut table = new_table(painter);
    for (label, value) in lines.iter().filter(|(_, value)| !value.text.is_empty()) {
        let label = Cell::new(format!("{label}:")).add_attribute(Attribute::Dim);
        table.add_row(Row::from(vec![label, cell(value)]));
    }
    finish(table)
}

fn new_table(painter: Painter) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    if painter.is_on() {
        table.enforce_styling();
    }
    table
}

fn finish(mut table: Table) -> String {
    table.discover_columns();
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    table.trim_fmt()
}

fn cell(styled: &Styled) -> Cell {
    let cell = Cell::new(&styled.text);
    match styled.color {
        Color::Plain => cell,
        Color::Green => cell.fg(TableColor::Green),
        Color::Red => cell.fg(TableColor::Red),
        Color::Yellow => cell.fg(TableColor::Yellow),
        Color::Cyan => cell.fg(TableColor::Cyan),
        Color::Dim => cell.add_attribute(Attribute::Dim),
        Color::Bold => cell.add_attribute(Attribute::Bold),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_without_borders() {
        let rows = vec![
            vec![Styled::from("a"), Styled::new("RUNNING", Color::Cyan)],
            vec![Styled::from("longer"), Styled::from("PENDING")],
        ];
        assert_eq!(
            columns(&["NAME", "STATE"], rows, Painter::plain()),
            "NAME    STATE\na       RUNNING\nlonger  PENDING"
        );
    }

    #[test]
    fn empty_values_are_left_out() {
        let lines = [("Name", Styled::from("x")), ("Error", Styled::from("")), ("State", Styled::from("two\nlines"))];
        assert_eq!(labelled(&lines, Painter::plain()), "Name:   x\nState:  two\n        lines");
    }
}
