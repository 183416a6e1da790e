//! Small pickles by hand: what each operation builds, and what each limit refuses.

use super::*;

const LIST: NameList = &[("torch._utils", "_rebuild_tensor_v2"), ("argparse", "Namespace")];

fn parse(bytes: &[u8]) -> Result<Pickle, PickleError> {
    parse_pickle(bytes, &[LIST], &PickleLimits::default()).map(|(pickle, _)| pickle)
}

#[track_caller]
fn check_fault(bytes: &[u8], wanted: &str) {
    let message = parse(bytes).unwrap_err().to_string();
    assert!(message.contains(wanted), "{message}");
}

/// A printed form for tests, cut at a depth because values may contain themselves.
fn show(value: Value<'_>, depth: usize) -> String {
    let list = |open, close, members: Vec<String>| format!("{open}{}{close}", members.join(","));
    let all = |members: &mut dyn Iterator<Item = Value<'_>>| members.map(|member| show(member, depth + 1)).collect();
    if depth > 5 {
        return "...".to_owned();
    }
    if let Some(text) = value.as_text() {
        return format!("'{text}'");
    }
    if let Some(int) = value.as_int() {
        return int.to_string();
    }
    if let Some(float) = value.as_float() {
        return format!("{float:?}");
    }
    if let Some(bool) = value.as_bool() {
        return bool.to_string();
    }
    if let Some(bytes) = value.as_bytes() {
        return format!("{bytes:?}");
    }
    if value.is_dict() {
        let pairs = value.entries().map(|(key, value)| format!("{}:{}", show(key, depth + 1), show(value, depth + 1)));
        return list("{", "}", pairs.collect());
    }
    if value.is_tuple() {
        return list("(", ")", all(&mut value.items()));
    }
    if value.is_sequence() {
        return list("[", "]", all(&mut value.items()));
    }
    if let Some(object) = value.as_any_object() {
        let listed = if object.global.is_listed { "" } else { "?" };
        let state = object.state().map(|state| format!("|{}", show(state, depth + 1))).unwrap_or_default();
        return format!("{listed}{}{}{state}", object.global.display(), show(object.args(), depth + 1));
    }
    if let Some(id) = value.as_persistent() {
        return format!("@{}", show(id, depth + 1));
    }
    if let Some(global) = value.as_global() {
        return format!("<{}>", global.display());
    }
    value.kind().to_owned()
}

#[track_caller]
fn check_value(bytes: &[u8], wanted: &str) {
    assert_eq!(show(parse(bytes).unwrap().root(), 0), wanted);
}

#[test]
fn numbers_of_every_form_are_built() {
    check_value(
        b"(K\x07M\x00\x01J\xff\xff\xff\xffI5\nI01\nL-9L\nF1.5\nG\x3f\xf8\0\0\0\0\0\0t.",
        "(7,256,-1,5,true,-9,1.5,1.5)",
    );
    check_value(b"(\x8a\0\x8a\x01\x80\x8a\x02\xff\0\x8b\x01\0\0\0\x05t.", "(0,-128,255,5)");
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    assert_eq!(parse(magic).unwrap().root().as_int(), Some(0x1950_a86a_20f9_469c_fc6c));
    check_value(&[&b"\x8a\x11"[..], &[1; 17], b"."].concat(), "an integer");
    check_value(&[&b"I1"[..], &[b'0'; 5000], b"\n."].concat(), "an integer");
    check_value(&[&b"\x8a\x11"[..], &[0xff; 17], b"."].concat(), "-1");
}

#[test]
fn texts_and_bytes_of_every_form_are_built() {
    check_value(
        b"(X\x01\0\0\0a\x8c\x01b\x8d\x01\0\0\0\0\0\0\0cVd\\u00e9\\U0001f600\nU\x01et.",
        "('a','b','c','dé😀','e')",
    );
    check_value(b"(B\x01\0\0\0aC\x01b\x8e\x01\0\0\0\0\0\0\0ct.", "([97],[98],[99])");
    check_value(b"c_codecs\nencode\n(X\x03\0\0\0a\xc3\xbfX\x06\0\0\0latin1tR.", "[97, 255]");
    check_value(b"X\x03\0\0\0\xed\xa0\x80.", "[237, 160, 128]");
    check_value(b"V\\ud800\n.", "[92, 117, 100, 56, 48, 48]");
}

#[test]
fn containers_are_built_and_shared_and_may_hold_themselves() {
    check_value(b"(lK\x01a(K\x02K\x03e.", "[1,2,3]");
    check_value(b"(K\x01K\x02d(K\x03K\x04uK\x05K\x06s.", "{1:2,3:4,5:6}");
    check_value(b"\x8f(K\x01\x90.", "[1]");
    check_value(b"K\x01\x85K\x02K\x03\x86\x86.", "((1),(2,3))");
    check_value(b"]q\0h\0a.", "[[[[[[...]]]]]]");
    check_value(b"ccollections\nOrderedDict\n)RK\x01K\x02s}K\x07K\x08sb.", "{1:2}");
    check_value(b"ccollections\nOrderedDict\n(](K\x01K\x02etR.", "collections.OrderedDict([1,2])");
    check_value(b"ccollections\nOrderedDict\n]]K\x01aK\x02aa\x85R.", "{1:2}");
    check_value(b"ctorch\nSize\n(K\x02K\x03t\x85R.", "(2,3)");
    check_value(b"c__builtin__\nset\n]K\x01a\x85R.", "[1]");
    let shared = parse(b"]\x94h\0h\0\x86.").unwrap();
    let ids: Vec<u32> = shared.root().items().map(Value::id).collect();
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn calls_are_kept_as_text_and_never_made() {
    check_value(b"ctorch._utils\n_rebuild_tensor_v2\nK\x01\x85R.", "torch._utils._rebuild_tensor_v2(1)");
    check_value(b"cos\nsystem\nX\x02\0\0\0ls\x85R.", "?os.system('ls')");
    check_value(b"cargparse\nNamespace\n)\x81}X\x01\0\0\0aK\x01sb.", "argparse.Namespace()|{'a':1}");
    check_value(b"(X\x07\0\0\0storageK\x05tQ.", "@('storage',5)");
    check_value(b"\x8c\x02os\x8c\x06system\x93.", "<os.system>");
    // The whole name is compared: a module that is listed lends nothing to its other names.
    check_value(b"ctorch._utils\n_rebuild_qtensor\n)R.", "?torch._utils._rebuild_qtensor()");
    let chain = parse(b"cbuiltins\ngetattr\n)R)R.").unwrap();
    assert_eq!(chain.root().opaque_name().unwrap().display(), "builtins.getattr");
    let names: Vec<String> = chain.unlisted_names().map(Global::display).collect();
    assert_eq!(names, ["builtins.getattr"]);
    let listed = parse(b"cargparse\nNamespace\n)R.").unwrap();
    assert!(listed.root().opaque_name().is_none());
}

#[test]
fn attributes_and_members_of_objects_are_found() {
    let pickle = parse(b"cargparse\nNamespace\n)\x81N}X\x01\0\0\0aK\x01s\x86bK\x02aK\x03K\x04s.").unwrap();
    let object = pickle.root().as_object().unwrap();
    assert_eq!(object.attribute("a").and_then(Value::as_int), Some(1));
    assert_eq!(object.items().map(|item| item.as_int()).collect::<Vec<_>>(), [Some(2)]);
    assert_eq!(object.entries().count(), 1);
    let twice = parse(b"}X\x01\0\0\0aK\x01sX\x01\0\0\0aK\x02s.").unwrap();
    assert_eq!(twice.root().get("a").and_then(Value::as_int), Some(2));
    assert_eq!(twice.root().entries().len(), 2);
}

#[test]
fn broken_pickles_are_refused_with_the_place() {
    check_fault(b"\x80\x02K", "byte 2 of the pickle: the bytes end");
    check_fault(b"\x80\x63.", "protocol 99");
    check_fault(b".", "a value is needed");
    check_fault(b"K\x01(0R.", "a value is needed");
    check_fault(b"t.", "never opened");
    check_fault(b"(K\x01u.", "a value is needed");
    check_fault(b"h\x07.", "memo entry 7");
    check_fault(b"\xff.", "0xff is not a pickle operation");
    check_fault(b"K\x01K\x02a.", "a list expected, an integer found");
    check_fault(b"}K\x01a.", "a list expected, a dictionary found");
    check_fault(b"NNR.", "a tuple of arguments expected");
    check_fault(b"N)R.", "something to call expected");
    check_fault(b"Ix\n.", "`x` is not an integer");
    check_fault(b"Fx\n.", "`x` is not a floating-point number");
    check_fault(b"V\\u12\n.", "not an escaped string");
    check_fault(b"K\x01K\x02\x93.", "a string expected, an integer found");
}

#[test]
fn lengths_are_compared_with_what_is_left_before_anything_is_allocated() {
    for opcode in [&b"\x8d"[..], b"\x8e", b"\x96"] {
        check_fault(&[opcode, &[0xff; 8], b"."].concat(), "18446744073709551615 bytes are announced, but 1 follow");
    }
    check_fault(b"X\xff\xff\xff\xff.", "4294967295 bytes");
    check_fault(b"\x8b\xff\xff\xff\x7f.", "2147483647 bytes");
    check_fault(b"\x8b\xff\xff\xff\xff.", "a length of -1");
    assert!(parse(b"X\x05\0\0\0ab").unwrap_err().is_truncated());
}

#[test]
fn operations_that_no_checkpoint_needs_are_refused_by_name() {
    check_fault(b"(K\x01ios\nsystem\n.", "operation INST would call `os.system`");
    check_fault(b"(cos\nsystem\nK\x01o.", "operation OBJ would call `os.system`");
    check_fault(b"P0\n.", "PERSID");
    check_fault(b"\x82\x01.", "EXT1");
    check_fault(b"\x97.", "NEXT_BUFFER");
}

#[test]
fn each_limit_holds() {
    let limits = PickleLimits { max_ops: 100, max_open: 3, max_memory_bytes: 20_000, max_text_bytes: 50 };
    let fault = |bytes: &[u8]| parse_pickle(bytes, &[], &limits).unwrap_err().to_string();
    assert!(fault(&[b'N'; 200]).contains("more than 100 operations"));
    assert!(fault(b"((((t.").contains("more than 3 open containers"));
    assert!(fault(&[&b"X\x3c\0\0\0"[..], &[b'a'; 60], b"."].concat()).contains("more than 50 bytes of text"));
    let many = PickleLimits { max_ops: 1 << 20, ..limits };
    let fault = parse_pickle(&[b']'; 5000], &[], &many).unwrap_err().to_string();
    assert!(fault.contains("more than 20000 bytes of memory"), "{fault}");
    // A copy of a large value costs few bytes of the pickle.
    let copies = [&b"C\x10"[..], &[7; 16], &b"\x85q\0"[..], &b"c__builtin__\nbytearray\nh\0R".repeat(9), b"."].concat();
    let fault = parse_pickle(&copies, &[], &limits).unwrap_err().to_string();
    assert!(fault.contains("bytes of text"), "{fault}");
}

#[test]
fn deep_nests_are_read_and_dropped_without_recursion() {
    let deep = [&b"]".repeat(300_000)[..], &b"a".repeat(299_999), b"."].concat();
    assert!(parse(&deep).is_ok());
    let tuples = [&b")"[..], &b"\x85".repeat(300_000), b"."].concat();
    assert!(parse(&tuples).is_ok());
}

#[test]
fn shared_values_are_not_expanded() {
    // Thirty levels of a pair of the same value: 2^30 leaves for a reader that expands them.
    let laughs = [&b"]"[..], &b"\x942\x86".repeat(30), b"."].concat();
    assert!(parse(&laughs).is_ok());
}

#[test]
fn memo_numbers_may_be_any() {
    check_value(b"Nr\xff\xff\xff\xff0j\xff\xff\xff\xff.", "None");
    check_value(b"K\x05p12\n0g12\n.", "5");
    check_fault(b"K\x05p-1\n.", "memo number");
}
