//! Names as small numbers: a million records share a few dozen topics and sources.

use std::collections::HashMap;

/// A name in an [`Interner`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(pub u32);

/// Gives each name a number, once.
#[derive(Debug, Default, Clone)]
pub struct Interner {
    names: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Interner {
    /// The symbol of `name`, a new one if need be.
    pub fn intern(&mut self, name: &str) -> Symbol {
        if let Some(number) = self.numbers.get(name) {
            return Symbol(*number);
        }
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        Symbol(number)
    }

    /// The name of a symbol.
    pub fn name(&self, symbol: Symbol) -> &str {
        let index = usize::try_from(symbol.0).unwrap_or(usize::MAX);
        self.names.get(index).map_or("", String::as_str)
    }
}
