//! stub

pub(super) fn survey() {
    super::tell("instructions: adopt");
}
