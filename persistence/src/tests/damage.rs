//! Any damage to the journal's files is cut at the end or refused: what is read back is what was written, without holes.

use std::sync::OnceLock;

use proptest::prelude::*;
use tern_core_shard::io::Logged;
use tern_protocol::PartitionId;

use super::{PARTITIONS, Rig, segment_files};
use crate::conformance::world::{Place, World};
use crate::files::Machine;
use crate::identity::Identity;
use crate::journal::recover;
use crate::sabotage::Mechanisms;

/// Pages at the beginning of a segment that damage hits: there are batches in them.
const PAGES: usize = 64;

struct Original {
    segments: Vec<Vec<u8>>,
    key: u64,
    logged: Vec<Logged>,
}

/// A journal of a few segments, made once.
fn original() -> &'static Original {
    static ORIGINAL: OnceLock<Original> = OnceLock::new();
    ORIGINAL.get_or_init(|| {
        let (rig, place) = (Rig::new(), Place::new("original"));
        let mut world = World::open_caught_up(&rig, &place.0, PARTITIONS, 1);
        for round in 0..40 {
            world.append_all(0, PartitionId::from_raw(round % PARTITIONS), 150);
        }
        let logged = world.logged.drain(..).map(|(_, logged)| logged).collect();
        world.close();
        let files = segment_files(&place.0);
        let segments = files.iter().map(|path| std::fs::read(path).unwrap()).collect();
        Original {
            segments,
            key: Identity::open(
                &Machine,
                &place.0,
                Identity { partitions: PARTITIONS, key: 0, made: false },
                Mechanisms::default(),
            )
            .unwrap()
            .key,
            logged,
        }
    })
}

/// One kind of damage.
#[derive(Debug, Clone)]
enum Damage {
    Flip {
        segment: usize,
        byte: usize,
        mask: u8,
    },
    Zero {
        segment: usize,
        page: usize,
    },
    /// A page where another one belongs.
    Misplace {
        segment: usize,
        from: usize,
        to: usize,
    },
    Truncate {
        segment: usize,
        pages: usize,
    },
    Remove {
        segment: usize,
    },
}

fn damages() -> impl Strategy<Value = Damage> {
    let (segment, page) = (0usize..8, 0..PAGES);
    prop_oneof![
        (segment.clone(), 0..PAGES * 4096, 1u8..).prop_map(|(segment, byte, mask)| Damage::Flip {
            segment,
            byte,
            mask
        }),
        (segment.clone(), page.clone()).prop_map(|(segment, page)| Damage::Zero { segment, page }),
        (segment.clone(), page.clone(), page.clone()).prop_map(|(segment, from, to)| Damage::Misplace {
            segment,
            from,
            to
        }),
        (segment.clone(), page).prop_map(|(segment, pages)| Damage::Truncate { segment, pages }),
        segment.prop_map(|segment| Damage::Remove { segment }),
    ]
}

fn apply(segments: &mut [Vec<u8>], damage: &Damage) {
    let count = segments.len();
    match *damage {
        Damage::Flip { segment, byte, mask } => {
            if let Some(byte) = segments[segment % count].get_mut(byte) {
                *byte ^= mask;
            }
        }
        Damage::Zero { segment, page } => {
            if let Some(page) = segments[segment % count].chunks_mut(4096).nth(page) {
                page.fill(0);
            }
        }
        Damage::Misplace { segment, from, to } => {
            let segment = &mut segments[segment % count];
            if segment.len() >= PAGES * 4096 {
                segment.copy_within(from * 4096..(from + 1) * 4096, to * 4096);
            }
        }
        Damage::Truncate { segment, pages } => segments[segment % count].truncate(pages * 4096),
        Damage::Remove { segment } => segments[segment % count].clear(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_panics_or_is_served(damages in prop::collection::vec(damages(), 1..3)) {
        let original = original();
        let mut segments = original.segments.clone();
        for damage in &damages {
            apply(&mut segments, damage);
        }
        let place = Place::new("damaged");
        std::fs::create_dir_all(&place.0).unwrap();
        for (index, bytes) in segments.iter().enumerate() {
            std::fs::write(place.0.join(format!("{index:04}.seg")), bytes).unwrap();
        }
        let applied = vec![0; usize::from(PARTITIONS)];
        if let Ok(recovered) = recover(&Machine, &place.0, &applied, original.key, Mechanisms::default()) {
            let mut read = Vec::new();
            for &at in &recovered.replay {
                for logged in recovered.read(at, original.key).unwrap() {
                    read.push(logged.unwrap());
                }
            }
            prop_assert!(original.logged.starts_with(&read), "read {} of {}", read.len(), original.logged.len());
        }
    }
}
