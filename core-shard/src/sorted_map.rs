//! A map in one vector, in the order of its keys: as small as what is in it. For maps that most often hold a handful of entries and are
//! read far more than changed; changing one costs the entries behind it.

/// A map from few keys.
#[derive(Debug, Clone)]
pub(crate) struct SortedMap<K, V> {
    entries: Vec<(K, V)>,
}

impl<K: Ord + Copy, V> SortedMap<K, V> {
    /// An empty map with room for so many.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { entries: Vec::with_capacity(capacity) }
    }

    pub(crate) const fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.find(key).is_ok()
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let at = self.find(key).ok()?;
        self.entries.get(at).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let at = self.find(key).ok()?;
        self.entries.get_mut(at).map(|(_, value)| value)
    }

    /// Puts a value in place of the one of before. Room grows by one until there are eight: most users have few.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        match self.find(&key) {
            Ok(at) => {
                if let Some((_, old)) = self.entries.get_mut(at) {
                    *old = value;
                }
            }
            Err(at) => {
                if self.entries.len() < EXACT_MAX {
                    self.entries.reserve_exact(1);
                }
                self.entries.insert(at, (key, value));
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.find(key).ok()?;
        Some(self.entries.remove(at).1)
    }

    /// In ascending order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.entries.iter().map(|(key, _)| key)
    }

    fn find(&self, key: &K) -> Result<usize, usize> {
        match self.entries.last() {
            // Whole directories come in order.
            Some((last, _)) if last < key => Err(self.entries.len()),
            _ => self.entries.binary_search_by_key(key, |(key, _)| *key),
        }
    }
}

/// Entries up to which no spare room is kept. Unit: entries.
const EXACT_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tern_protocol::placement::mix64;

    use super::*;

    /// Any sequence of changes leaves it as it leaves the map of the standard library.
    #[test]
    fn it_is_a_map() {
        let mut random = 1u64;
        let (mut map, mut model) = (SortedMap::with_capacity(1), BTreeMap::new());
        for _ in 0..20_000 {
            random = mix64(random);
            let (key, value) = (random % 24, random >> 32);
            if random & 0x100 == 0 {
                map.insert(key, value);
                model.insert(key, value);
            } else {
                assert_eq!(map.remove(&key), model.remove(&key));
            }
            assert_eq!(map.len(), model.len());
            assert!(map.keys().eq(model.keys()));
            assert_eq!(map.get(&key), model.get(&key));
            assert_eq!(map.contains_key(&key), model.contains_key(&key));
            assert_eq!(map.get_mut(&key), model.get_mut(&key));
        }
    }
}
