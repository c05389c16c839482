//! Which number stands for which node, for as long as somebody outside knows the number.
//!
//! A number is never used for a second node, so that one that is asked for late cannot lead to another file.

use std::collections::HashMap;
use std::sync::Arc;

use super::view::{Folder, Node};

/// The number of the tree's root.
pub(super) const ROOT: u64 = 1;

/// The nodes that are known outside.
pub(super) struct Nodes {
    by_number: HashMap<u64, Known>,
    by_node: HashMap<Arc<Node>, u64>,
    next: u64,
}

struct Known {
    node: Arc<Node>,
    /// How often the number was given out and not yet given back.
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

    /// The number of a node, if it has one at present.
    pub(super) fn number(&self, node: &Node) -> Option<u64> {
        self.by_node.get(node).copied()
    }

    /// The number of a node, which is to be given back by [`Nodes::give_back`].
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

    /// Gives a number back that was given out `count` times.
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
