//! Maps numbers to nodes, for as long as the outside knows the number.
//!
//! A number is never reused for another node, so that a late request cannot reach another file.

use std::collections::HashMap;
use std::sync::Arc;

use super::view::{Folder, Node};

/// The number of the tree's root.
pub(super) const ROOT: u64 = 1;

/// The nodes that the outside knows.
pub(super) struct Nodes {
    by_number: HashMap<u64, Known>,
    by_node: HashMap<Arc<Node>, u64>,
    next: u64,
}

struct Known {
    node: Arc<Node>,
    /// How often the number was given out and not yet returned.
    count: u64,
}

impl Nodes {
    pub(super) fn new() -> Self {
        let mut nodes = Nodes { by_number: HashMap::new(), by_node: HashMap::new(), next: ROOT };
        nodes.give_out(Node::Folder(Folder::Root));
        nodes
    }

    pub(super) fn get(&self, number: u64) -> Option<Arc<Node>> {
        self.by_number.get(&number).map(|known| Arc::clone(&known.node))
    }

    /// The number of a node, if it has one now.
    pub(super) fn number(&self, node: &Node) -> Option<u64> {
        self.by_node.get(node).copied()
    }

    /// The number of a node, to be returned with [`Nodes::give_back`].
    pub(super) fn give_out(&mut self, node: Node) -> u64 {
        if let Some(number) = self.by_node.get(&node)
            && let Some(known) = self.by_number.get_mut(number)
        {
            known.count = known.count.saturating_add(1);
            return *number;
        }
        let (number, node) = (self.next, Arc::new(node));
        self.next += 1;
        self.by_number.insert(number, Known { node: Arc::clone(&node), count: 1 });
        self.by_node.insert(node, number);
        number
    }

    /// Returns a number that was given out `count` times.
    pub(super) fn give_back(&mut self, number: u64, count: u64) {
        let Some(known) = self.by_number.get_mut(&number) else { return };
        known.count = known.count.saturating_sub(count);
        if known.count == 0 && number != ROOT {
            let node = Arc::clone(&known.node);
            self.by_number.remove(&number);
            self.by_node.remove(&node);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }
}
