//! The units
