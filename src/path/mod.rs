//! What is known of each path, and what follows from it: is it alive (`health`), which one takes
//! the next chunk (`select`), does it lead another way than the others (`search`), and does the port
//! that it leaves by lose packets (`loss`).

pub mod health;
pub mod loss;
pub mod search;
pub mod select;
