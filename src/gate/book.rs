//! Counters that outlive a configuration: those of limits whose settings did not change.

use std::any::Any;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

/// The counters of one configuration, handed on to the next.
#[derive(Default)]
pub struct Book {
    entries: HashMap<String, Entry>,
    predecessor: HashMap<String, Entry>,
    seed: u64,
}

#[derive(Clone)]
struct Entry {
    settings: String,
    counter: Arc<dyn Any + Send + Sync>,
}

impl Book {
    /// A book that adopts from `predecessor` whatever is asked for again with the same settings.
    ///
    /// `seed` is random, so that nobody outside can predict where a table keeps an address.
    pub fn after(predecessor: Option<&Book>, seed: u64) -> Self {
        let predecessor = predecessor.map(|p| p.entries.clone()).unwrap_or_default();
        Self { entries: HashMap::new(), predecessor, seed }
    }

    /// Lets go of what the predecessor had and nobody asked for.
    pub fn close(mut self) -> Self {
        self.predecessor.clear();
        self
    }

    /// Random bits for keyed hashes.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The counter of that name: the predecessor's if its settings were the same, else a new one.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn keep<T, E>(
        &mut self,
        name: String,
        settings: &impl Debug,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E>
    where
        T: Any + Send + Sync,
    {
        let settings = format!("{settings:?}");
        let adopted = self.predecessor.remove(&name).filter(|entry| entry.settings == settings);
        let adopted = adopted.and_then(|entry| entry.counter.downcast::<T>().ok());
        let counter = match adopted {
            Some(counter) => counter,
            None => Arc::new(make()?),
        };
        self.entries.insert(name, Entry { settings, counter: counter.clone() });
        Ok(counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(book: &mut Book, settings: u32, value: u32) -> u32 {
        *book.keep("a".to_owned(), &settings, || Ok::<_, ()>(value)).expect("made")
    }

    #[test]
    fn unchanged_settings_keep_their_counter_and_changed_ones_start_anew() {
        let mut first = Book::default();
        assert_eq!(keep(&mut first, 1, 10), 10);
        let mut second = Book::after(Some(&first), 0);
        assert_eq!(keep(&mut second, 1, 20), 10);
        let mut third = Book::after(Some(&second), 0);
        assert_eq!(keep(&mut third, 2, 30), 30);
    }
}
