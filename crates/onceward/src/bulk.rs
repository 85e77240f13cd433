//! Statements about many rows, for handlers that take a batch at once.
//!
//! A text for every number of rows would fill the statement cache, and be prepared again each time. So a
//! [`Bulk`] has texts for 64, 16, 4, 2 and 1 rows only, and a list is cut into pieces of these sizes.

use std::sync::OnceLock;

use crate::Backend;

const SIZES: [usize; 5] = [64, 16, 4, 2, 1];

/// The texts of one statement. Meant to be a `static`.
///
/// ```
/// use onceward::bulk::Bulk;
/// use sqlx::Sqlite;
///
/// static INSERT: Bulk = Bulk::insert("insert into effect (n, note) values", 2, "");
/// assert_eq!(INSERT.text::<Sqlite>(2), "insert into effect (n, note) values (?, ?), (?, ?)");
/// ```
#[derive(Debug)]
pub struct Bulk {
    shape: Shape,
    numbered: OnceLock<[String; SIZES.len()]>,
    plain: OnceLock<[String; SIZES.len()]>,
}

#[derive(Debug)]
enum Shape {
    Insert {
        head: &'static str,
        columns: usize,
        tail: &'static str,
    },
    Custom(fn(usize, &Parameters) -> String),
}

/// How a database writes parameters.
#[derive(Debug)]
pub struct Parameters {
    numbered: bool,
}

impl Parameters {
    /// The parameter that is bound `number`-th, from 1. Each must stand in the text once, in the order of the
    /// numbers; what several rows share goes by [`Self::shared`].
    pub fn of(&self, number: usize) -> String {
        match self.numbered {
            true => format!("${number}"),
            // SQLite takes `$7` for a name, and finds it by walking through all names before it.
            false => "?".to_owned(),
        }
    }

    /// The parameter that is bound `number`-th and may stand in the text several times. Behind all others.
    pub fn shared(&self, number: usize) -> String {
        format!("${number}")
    }

    /// `(…), (…)`: so many rows of so many parameters.
    pub fn rows(&self, rows: usize, columns: usize) -> String {
        listed(rows, columns, |number| self.of(number))
    }

    /// [`Self::rows`] where Postgres can't tell the types from the place: a row has a column of each of these.
    pub fn typed_rows(&self, rows: usize, types: &[&str]) -> String {
        listed(rows, types.len(), |number| match self.numbered {
            true => format!("{}::{}", self.of(number), types[(number - 1) % types.len()]),
            false => self.of(number),
        })
    }
}

impl Bulk {
    /// `head (?, …), (?, …) tail` with so many columns a row.
    pub const fn insert(head: &'static str, columns: usize, tail: &'static str) -> Self {
        Self::new(Shape::Insert {
            head,
            columns,
            tail,
        })
    }

    /// Any text, given the number of rows.
    pub const fn custom(text: fn(usize, &Parameters) -> String) -> Self {
        Self::new(Shape::Custom(text))
    }

    const fn new(shape: Shape) -> Self {
        Self {
            shape,
            numbered: OnceLock::new(),
            plain: OnceLock::new(),
        }
    }

    /// The text for a piece that [`pieces`] has cut.
    pub fn text<B: Backend>(&'static self, rows: usize) -> &'static str {
        let (texts, numbered) = match B::PLAIN_PARAMETERS {
            true => (&self.plain, false),
            false => (&self.numbered, true),
        };
        let parameters = Parameters { numbered };
        let texts = texts.get_or_init(|| SIZES.map(|rows| self.shape.text(rows, &parameters)));
        let place = SIZES.iter().position(|size| *size == rows);
        &texts[place.unwrap_or(SIZES.len() - 1)]
    }
}

impl Shape {
    fn text(&self, rows: usize, parameters: &Parameters) -> String {
        match self {
            Self::Custom(text) => text(rows, parameters),
            Self::Insert {
                head,
                columns,
                tail,
            } => {
                let text = format!("{head} {} {tail}", parameters.rows(rows, *columns));
                text.trim_end().to_owned()
            }
        }
    }
}

fn listed(rows: usize, columns: usize, parameter: impl Fn(usize) -> String) -> String {
    let row = |place: usize| {
        let first = columns * place + 1;
        let own: Vec<String> = (first..first + columns).map(&parameter).collect();
        format!("({})", own.join(", "))
    };
    let all: Vec<String> = (0..rows).map(row).collect();
    all.join(", ")
}

/// Cuts a list into pieces of the sizes that a [`Bulk`] has texts for.
pub fn pieces<T>(mut rest: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = SIZES.into_iter().find(|size| *size <= rest.len())?;
        let (piece, others) = rest.split_at(size);
        rest = others;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use sqlx::{Postgres, Sqlite};

    use super::*;

    static INSERT: Bulk = Bulk::insert("insert into t (a, b) values", 2, "on conflict do nothing");

    #[test]
    fn a_text_has_a_parameter_for_each_column_of_each_row() {
        assert_eq!(
            INSERT.text::<Postgres>(2),
            "insert into t (a, b) values ($1, $2), ($3, $4) on conflict do nothing"
        );
        assert_eq!(
            INSERT.text::<Sqlite>(2),
            "insert into t (a, b) values (?, ?), (?, ?) on conflict do nothing"
        );
    }

    #[test]
    fn only_postgres_is_told_types() {
        static TYPED: Bulk =
            Bulk::custom(|rows, parameters| parameters.typed_rows(rows, &["uuid", "text"]));
        let numbered = "($1::uuid, $2::text), ($3::uuid, $4::text)";
        assert_eq!(TYPED.text::<Postgres>(2), numbered);
        assert_eq!(TYPED.text::<Sqlite>(2), "(?, ?), (?, ?)");
    }

    #[test]
    fn pieces_are_the_whole_in_its_order() {
        for length in 0..200 {
            let all: Vec<usize> = (0..length).collect();
            let cut: Vec<&[usize]> = pieces(&all).collect();
            assert!(cut.iter().all(|piece| SIZES.contains(&piece.len())));
            assert_eq!(cut.concat(), all);
        }
    }
}
