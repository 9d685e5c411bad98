//! exempt
