//! What is known of each path, and what follows from it: is it alive (`health`), which one takes
//! the next chunk (`select`), and does it lead another way than the others (`search`).

pub mod health;
pub mod search;
pub mod select;
