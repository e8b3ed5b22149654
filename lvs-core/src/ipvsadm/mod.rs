//! The text of ipvsadm: rules read and written, tables printed.
