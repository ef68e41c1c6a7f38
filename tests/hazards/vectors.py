"""What a client may send over HTTP/1.1, and much that it may not: RFC 9112 and 9110, section by section.

A refused request ends its connection, whatever follows on it; and nothing of it may reach the upstream.
"""

from __future__ import annotations

from dataclasses import dataclass

H = b"Host: a.test\r\n"
SMUGGLED = b"GET /open/smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n"


@dataclass(frozen=True)
class Vector:
    """`reached`: what the upstream gets, as (method, target, body), in order. `keeps`: the connection stays open.
    `status` is that of the first of so many answers; the others are 200."""

    about: str
    data: bytes
    status: int
    keeps: bool
    reached: tuple[tuple[str, str, bytes], ...] = ()
    answers: int = 1


def passes(
    about: str, data: bytes, target: str = "/open/x", method: str = "GET", body: bytes = b"", *, keeps: bool = True
) -> Vector:
    return Vector(about, data, 200, keeps, ((method, target, body),))


def refused(about: str, data: bytes, status: int = 400) -> Vector:
    return Vector(about, data, status, False)


def get(target: bytes = b"/open/x", fields: bytes = H, version: bytes = b"1.1", method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, target, version, fields)


def post(fields: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return get(b"/open/x", H + fields, version, b"POST") + body


def chunked(body: bytes, fields: bytes = b"Transfer-Encoding: chunked\r\n") -> bytes:
    return post(fields, body)


def posted(about: str, data: bytes, body: bytes) -> Vector:
    return passes(about, data, method="POST", body=body)


REQUEST_LINE = [  # RFC 9112 §3
    passes("plain", get()),
    passes("query is kept as it is", get(b"/open/x?a=%zz&b=//../;"), "/open/x?a=%zz&b=//../;"),
    passes("empty query", get(b"/open/x?"), "/open/x"),
    passes("blank line first (§2.2)", b"\r\n" + get()),
    passes("several blank lines first", b"\r\n\r\n\r\n" + get()),
    passes("unknown method", get(method=b"BREW"), method="BREW"),
    passes("methods have a case", get(method=b"get"), method="get"),
    passes("a method is any token", get(method=b"M-SEARCH"), method="M-SEARCH"),
    passes("HTTP/1.0 closes", get(version=b"1.0"), keeps=False),
    passes("HTTP/1.0 keeps alive when asked", get(fields=H + b"Connection: keep-alive\r\n", version=b"1.0")),
    passes("HTTP/1.0 with both options closes",
           get(fields=H + b"Connection: keep-alive, close\r\n", version=b"1.0"), keeps=False),
    refused("bare LF ends no line", b"GET /open/x HTTP/1.1\nHost: a.test\n\n"),
    refused("bare LF after the request line", b"GET /open/x HTTP/1.1\n" + H + b"\r\n"),
    refused("bare CR in the request line", b"GET /open/x\rHTTP/1.1\r\n" + H + b"\r\n"),
    refused("blank line of bare LF first", b"\n" + get()),
    refused("two spaces before the target", get(b" /open/x")),
    refused("two spaces before the version", b"GET /open/x  HTTP/1.1\r\n" + H + b"\r\n"),
    refused("space first", b" " + get()),
    refused("space last", b"GET /open/x HTTP/1.1 \r\n" + H + b"\r\n"),
    refused("tab for space", b"GET\t/open/x\tHTTP/1.1\r\n" + H + b"\r\n"),
    refused("vertical tab for space", b"GET\x0b/open/x HTTP/1.1\r\n" + H + b"\r\n"),
    refused("no version", b"GET /open/x\r\n" + H + b"\r\n"),
    refused("no target", b"GET HTTP/1.1\r\n" + H + b"\r\n"),
    refused("no method", b"/open/x HTTP/1.1\r\n" + H + b"\r\n"),
    refused("HTTP/0.9", b"GET /open/x\r\n\r\n"),
    refused("a method that is no token", get(method=b"G@T")),
    refused("a method with a colon", get(method=b"GET:")),
    refused("NUL in the method", get(method=b"G\0T")),
    refused("lower-case protocol", b"GET /open/x http/1.1\r\n" + H + b"\r\n"),
    refused("other protocol", b"GET /open/x ICY/1.1\r\n" + H + b"\r\n"),
    refused("two digits of version", get(version=b"1.10")),
    refused("no minor version", get(version=b"1")),
    refused("comma in the version", get(version=b"1,1")),
    refused("HTTP/1.2", get(version=b"1.2"), 505),
    refused("HTTP/2.0", get(version=b"2.0"), 505),
    refused("HTTP/0.9 spelled out", get(version=b"0.9"), 505),
    refused("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    refused("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    refused("CONNECT", b"CONNECT a.test:443 HTTP/1.1\r\n" + H + b"\r\n", 405),
    refused("TRACE", get(method=b"TRACE"), 405),
    refused("a request line without end", b"GET /open/" + b"a" * 9000, 414),
    refused("a long request line", get(b"/open/" + b"a" * 9000), 414),
]  # fmt: skip

TARGET = [  # RFC 9112 §3.2, RFC 3986
    passes("absolute form", get(b"http://a.test/open/x?y"), "/open/x?y"),
    passes("absolute form, scheme in capitals", get(b"HTTP://a.test/open/x")),
    passes("absolute form of https", get(b"https://a.test/open/x")),
    passes("absolute form, host beats Host (§3.2.2)", get(b"http://a.test/open/x", b"Host: other.test\r\n")),
    passes("absolute form with a port", get(b"http://a.test:8080/open/x")),
    passes("absolute form, IPv6", get(b"http://[::1]:80/open/x")),
    passes("absolute form without Host in 1.0", get(b"http://a.test/open/x", b"", b"1.0"), keeps=False),
    refused("absolute form without Host in 1.1", get(b"http://a.test/open/x", b"")),
    refused("absolute form with a user", get(b"http://u:p@a.test/open/x")),
    refused("absolute form, no host", get(b"http:///open/x")),
    refused("absolute form, bad port", get(b"http://a.test:8o/open/x")),
    refused("absolute form, port too large", get(b"http://a.test:65536/open/x")),
    refused("absolute form, another scheme", get(b"ftp://a.test/open/x")),
    refused("absolute form, no slashes", get(b"http:a.test/open/x")),
    refused("absolute form, backslashes", get(b"http:\\\\a.test\\open\\x")),
    refused("absolute form with a fragment", get(b"http://a.test/open/x#y")),
    refused("authority form for GET", get(b"a.test:80")),
    refused("no slash first", get(b"open/x")),
    refused("backslash first", get(b"\\open\\x")),
    refused("asterisk for GET", get(b"*")),
    Vector("asterisk for OPTIONS: no route is asked", get(b"*", method=b"OPTIONS"), 400, True),
    refused("fragment", get(b"/open/x#y")),
    refused("NUL", get(b"/open/\0")),
    refused("control byte", get(b"/open/\x01")),
    refused("DEL", get(b"/open/\x7f")),
    refused("raw non-ASCII", get("/open/ü".encode())),
    refused("raw Latin-1", get(b"/open/\xfc")),
    Vector("encoded NUL", get(b"/open/%00"), 400, True),
    Vector("encoded line break", get(b"/open/%0d%0aX:y"), 400, True),
    Vector("encoded tab", get(b"/open/%09"), 400, True),
    Vector("encoded DEL", get(b"/open/%7f"), 400, True),
    Vector("percent without digits", get(b"/open/%"), 400, True),
    Vector("percent with one digit", get(b"/open/%4"), 400, True),
    Vector("percent with other letters", get(b"/open/%u002f"), 400, True),
    Vector("dots that lead to another route", get(b"/open/../keyed/x"), 400, True),
    Vector("encoded dots that lead to another route", get(b"/open/%2e%2e/keyed/x"), 400, True),
    passes("odd, but one route's alone", get(b"/open/a%2Fb;v=1//c%20d"), "/open/a%2Fb;v=1//c%20d"),
    Vector("another route's key is asked for", get(b"/keyed/x"), 401, True),
    Vector("no route", get(b"/none"), 404, True),
]  # fmt: skip

HOST = [  # RFC 9112 §3.2
    refused("none", get(fields=b"")),
    refused("two", get(fields=H + b"Host: b.test\r\n")),
    refused("two equal ones", get(fields=H + H)),
    refused("empty", get(fields=b"Host:\r\n")),
    refused("blank", get(fields=b"Host:   \r\n")),
    refused("a list", get(fields=b"Host: a.test, b.test\r\n")),
    refused("with a space", get(fields=b"Host: a .test\r\n")),
    refused("with a path", get(fields=b"Host: a.test/open\r\n")),
    refused("with a user", get(fields=b"Host: u@a.test\r\n")),
    refused("with a query", get(fields=b"Host: a.test?x\r\n")),
    refused("a port that is none", get(fields=b"Host: a.test:http\r\n")),
    refused("a port too large", get(fields=b"Host: a.test:99999\r\n")),
    refused("a negative port", get(fields=b"Host: a.test:-1\r\n")),
    refused("two ports", get(fields=b"Host: a.test:80:80\r\n")),
    refused("an open bracket", get(fields=b"Host: [::1\r\n")),
    refused("a bare IPv6 address", get(fields=b"Host: ::1\r\n")),
    refused("non-ASCII", get(fields="Host: ü.test\r\n".encode())),
    refused("percent", get(fields=b"Host: a%2etest\r\n")),
    refused("space before the colon", get(fields=b"Host : a.test\r\n")),
    refused("none but a look-alike", get(fields=b"Host_: a.test\r\n")),
    refused("two in 1.0", get(fields=H + H, version=b"1.0")),
    passes("none in 1.0", get(fields=b"", version=b"1.0"), keeps=False),
    passes("with a port", get(fields=b"Host: a.test:8080\r\n")),
    passes("with an empty port", get(fields=b"Host: a.test:\r\n")),
    passes("IPv6", get(fields=b"Host: [2001:db8::1]:80\r\n")),
    passes("name in capitals", get(fields=b"HOST: A.TEST\r\n")),
]

FIELDS = [  # RFC 9112 §5, RFC 9110 §5
    passes("no space after the colon", get(fields=H + b"X:y\r\n")),
    passes("tabs around the value", get(fields=H + b"X:\t y \t\r\n")),
    passes("empty value", get(fields=H + b"X:\r\n")),
    passes("all token characters", get(fields=H + b"!#$%&'*+-.^_`|~09Az: y\r\n")),
    passes("bytes above 127 in a value", get(fields=H + b"X: \xfc\xff\r\n")),
    passes("the same name twice", get(fields=H + b"X: 1\r\nX: 2\r\n")),
    refused("space before the colon", get(fields=H + b"X : y\r\n")),
    refused("tab before the colon", get(fields=H + b"X\t: y\r\n")),
    refused("no colon", get(fields=H + b"X\r\n")),
    refused("no name", get(fields=H + b": y\r\n")),
    refused("folded (§5.2)", get(fields=H + b"X: a\r\n b\r\n")),
    refused("folded by a tab", get(fields=H + b"X: a\r\n\tb\r\n")),
    refused("folded first line", b"GET /open/x HTTP/1.1\r\n " + H + b"\r\n"),
    refused("folded framing", post(b"Content-Length:\r\n 5\r\n", b"hello")),
    refused("NUL in a value", get(fields=H + b"X: a\0b\r\n")),
    refused("NUL in a name", get(fields=H + b"X\0: y\r\n")),
    refused("control byte in a value", get(fields=H + b"X: a\x08b\r\n")),
    refused("DEL in a value", get(fields=H + b"X: a\x7fb\r\n")),
    refused("bare CR in a value", get(fields=H + b"X: a\rb\r\n")),
    refused("bare LF in a value", get(fields=H + b"X: a\nY: b\r\n")),
    refused("bare LF ends a field", b"GET /open/x HTTP/1.1\r\nHost: a.test\nX: y\r\n\r\n"),
    refused("bare LFs end the head", b"GET /open/x HTTP/1.1\r\nHost: a.test\r\nX: y\n\n"),
    refused("CR CR LF", get(fields=H + b"X: y\r\r\n")),
    refused("a name with a space", get(fields=H + b"X Y: z\r\n")),
    refused("a name with a bracket", get(fields=H + b"X[]: z\r\n")),
    refused("a quoted name", get(fields=H + b'"X": z\r\n')),
    refused("a non-ASCII name", get(fields=H + b"X\xfc: z\r\n")),
    refused("a long head", get(fields=H + b"X: " + b"y" * 40_000 + b"\r\n"), 431),
    refused("a head without end", b"GET /open/x HTTP/1.1\r\n" + b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 1200, 431),
    refused("many fields", get(fields=H + b"X: y\r\n" * 100), 431),
    passes("as many as may be", get(fields=H + b"X: y\r\n" * 99)),
]

CONNECTION = [  # RFC 9110 §7.6.1, §7.8, §10.1.1
    passes("close", get(fields=H + b"Connection: close\r\n"), keeps=False),
    passes("Close in capitals", get(fields=H + b"Connection: CLOSE\r\n"), keeps=False),
    passes("close in a list", get(fields=H + b"Connection: x, close\r\n"), keeps=False),
    passes("close in a second field", get(fields=H + b"Connection: x\r\nConnection: close\r\n"), keeps=False),
    passes("unknown options", get(fields=H + b"Connection: x, , y\r\n")),
    passes("an upgrade nobody knows (h2c) is ignored",
           get(fields=H + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n")),
    passes("an expectation without a body", get(fields=H + b"Expect: 100-continue\r\n")),
    passes("an expectation in 1.0 is ignored",
           get(b"/open/x", H + b"Expect: 100-continue\r\nContent-Length: 2\r\n", b"1.0", b"POST") + b"ab",
           method="POST", body=b"ab", keeps=False),
    refused("another expectation", post(b"Expect: a-pony\r\nContent-Length: 0\r\n"), 417),
    refused("two expectations", post(b"Expect: 100-continue, x\r\nContent-Length: 0\r\n"), 417),
]  # fmt: skip

LENGTH = [  # RFC 9112 §6
    posted("a body", post(b"Content-Length: 5\r\n", b"hello"), b"hello"),
    posted("no body at all", post(b""), b""),
    posted("length 0", post(b"Content-Length: 0\r\n"), b""),
    posted("leading zeros", post(b"Content-Length: 0005\r\n", b"hello"), b"hello"),
    posted("a body that looks like a request", post(b"Content-Length: %d\r\n" % len(SMUGGLED), SMUGGLED), SMUGGLED),
    passes("a body of GET", get(fields=H + b"Content-Length: 2\r\n") + b"ab", body=b"ab"),
    passes("a body of GET that looks like a request",
           get(fields=H + b"Content-Length: %d\r\n" % len(SMUGGLED)) + SMUGGLED, body=SMUGGLED),
    passes("a body of HTTP/1.0", get(b"/open/x", H + b"Content-Length: 2\r\n", b"1.0", b"POST") + b"ab",
           method="POST", body=b"ab", keeps=False),
    refused("no number", post(b"Content-Length:\r\n", SMUGGLED)),
    refused("a word", post(b"Content-Length: five\r\n", SMUGGLED)),
    refused("a plus", post(b"Content-Length: +5\r\n", b"hello" + SMUGGLED)),
    refused("a minus", post(b"Content-Length: -5\r\n", SMUGGLED)),
    refused("hexadecimal", post(b"Content-Length: 0x5\r\n", b"hello" + SMUGGLED)),
    refused("a fraction", post(b"Content-Length: 5.0\r\n", b"hello" + SMUGGLED)),
    refused("an exponent", post(b"Content-Length: 1e1\r\n", SMUGGLED)),
    refused("digits in groups", post(b"Content-Length: 1_0\r\n", SMUGGLED)),
    refused("a space inside", post(b"Content-Length: 1 0\r\n", SMUGGLED)),
    refused("quoted", post(b'Content-Length: "5"\r\n', b"hello" + SMUGGLED)),
    refused("a superscript", post(b"Content-Length: \xb2\r\n", SMUGGLED)),
    refused("digits of another script", post(b"Content-Length: \xd9\xa5\r\n", b"hello" + SMUGGLED)),
    refused("more than any number", post(b"Content-Length: 99999999999999999999999\r\n", SMUGGLED)),
    refused("a list of equal ones", post(b"Content-Length: 5, 5\r\n", b"hello" + SMUGGLED)),
    refused("a list of different ones", post(b"Content-Length: 5, 0\r\n", b"hello" + SMUGGLED)),
    refused("two equal ones", post(b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello" + SMUGGLED)),
    refused("two different ones", post(b"Content-Length: 0\r\nContent-Length: 44\r\n", SMUGGLED)),
    refused("a second of another case", post(b"Content-Length: 0\r\ncontent-length: 44\r\n", SMUGGLED)),
    refused("space before its colon", post(b"Content-Length : 44\r\n", SMUGGLED)),
    refused("larger than the gateway takes", post(b"Content-Length: 99999999999\r\n", SMUGGLED), 413),
    refused("beside chunks (§6.3)",
            post(b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + SMUGGLED)),
    refused("behind chunks", post(b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", b"0\r\n\r\n" + SMUGGLED)),
    refused("zero beside chunks", post(b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", SMUGGLED)),
    refused("beside an unknown coding", post(b"Content-Length: 4\r\nTransfer-Encoding: x\r\n", SMUGGLED)),
]  # fmt: skip

CODING = [  # RFC 9112 §6.1
    posted("chunked", chunked(b"5\r\nhello\r\n0\r\n\r\n"), b"hello"),
    posted("in capitals", chunked(b"5\r\nhello\r\n0\r\n\r\n", b"TRANSFER-ENCODING: CHUNKED\r\n"), b"hello"),
    posted("tabs around it", chunked(b"0\r\n\r\n", b"Transfer-Encoding:\t chunked \t\r\n"), b""),
    refused("in HTTP/1.0", post(b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n" + SMUGGLED, b"1.0")),
    refused("twice", chunked(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding: chunked, chunked\r\n")),
    refused("in two fields", chunked(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding: chunked\r\n" * 2)),
    refused("not last", chunked(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding: chunked, gzip\r\n")),
    refused("not last in two fields",
            chunked(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n")),
    refused("none", chunked(SMUGGLED, b"Transfer-Encoding:\r\n")),
    refused("an empty member", chunked(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding: ,chunked\r\n")),
    refused("gzip", chunked(SMUGGLED, b"Transfer-Encoding: gzip\r\n"), 501),
    refused("gzip, chunked", chunked(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding: gzip, chunked\r\n"), 501),
    refused("identity", chunked(SMUGGLED, b"Transfer-Encoding: identity\r\n"), 501),
    refused("identity, chunked", chunked(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding: identity, chunked\r\n"), 501),
    refused("xchunked", chunked(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding: xchunked\r\n"), 501),
    refused("quoted", chunked(b"0\r\n\r\n" + SMUGGLED, b'Transfer-Encoding: "chunked"\r\n'), 501),
    refused("with a parameter", chunked(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding: chunked;x=y\r\n"), 501),
    refused("with a vertical tab", chunked(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding: \x0bchunked\r\n")),
    refused("with a control byte", chunked(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding: chunked\x01\r\n")),
    refused("with a high byte", chunked(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding: chunked\xa0\r\n"), 501),
    refused("space before the colon", chunked(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding : chunked\r\n")),
    refused("folded", chunked(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding:\r\n chunked\r\n")),
    refused("a name broken by CR", chunked(b"0\r\n\r\n" + SMUGGLED, b"X: y\rTransfer-Encoding: chunked\r\n")),
    Vector("a look-alike is no framing: what follows is a request",
           post(b"Transfer_Encoding: chunked\r\n", get(b"/open/2")),
           200, True, (("POST", "/open/x", b""), ("GET", "/open/2", b"")), 2),
    Vector("nor is a length in a look-alike", post(b"Content.Length: 5\r\n", get(b"/open/2")),
           200, True, (("POST", "/open/x", b""), ("GET", "/open/2", b"")), 2),
]  # fmt: skip

CHUNKS = [  # RFC 9112 §7.1
    posted("several", chunked(b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), b"hello"),
    posted("hexadecimal, both cases", chunked(b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n"), b"0123456789" * 2),
    posted("leading zeros", chunked(b"00005\r\nhello\r\n000\r\n\r\n"), b"hello"),
    posted("extensions", chunked(b'5;a=b;c="d"\r\nhello\r\n0;x\r\n\r\n'), b"hello"),
    posted("space before an extension", chunked(b"5 ;a\r\nhello\r\n0\r\n\r\n"), b"hello"),
    posted("trailers are dropped", chunked(b"5\r\nhello\r\n0\r\nX: y\r\nZ: 1\r\n\r\n"), b"hello"),
    posted("framing in trailers is nothing", chunked(b"0\r\nContent-Length: 44\r\nTransfer-Encoding: x\r\n\r\n"), b""),
    posted("data that looks like an end", chunked(b"9\r\n\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n"), b"\r\n0\r\n\r\n\r\n"),
    posted("data that looks like a request", chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)), SMUGGLED),
    refused("no size", chunked(b"\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    refused("a word for a size", chunked(b"five\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    refused("a prefix", chunked(b"0x5\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    refused("a plus", chunked(b"+5\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    refused("a minus", chunked(b"-5\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    refused("digits in groups", chunked(b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n" + SMUGGLED)),
    refused("space before a size", chunked(b" 5\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    refused("space behind a bare size", chunked(b"5 \r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    refused("more than any size", chunked(b"ffffffffffffffff5\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    refused("larger than the gateway takes", chunked(b"fffffffff\r\nhello" + SMUGGLED), 413),
    refused("bare LF behind a size", chunked(b"5\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    refused("bare LF behind data", chunked(b"5\r\nhello\n0\r\n\r\n" + SMUGGLED)),
    refused("bare LF at the end", chunked(b"0\n\n" + SMUGGLED)),
    refused("bare CR behind a size", chunked(b"5\rhello\r\n0\r\n\r\n" + SMUGGLED)),
    refused("data too long", chunked(b"5\r\nhello!\r\n0\r\n\r\n" + SMUGGLED)),
    refused("data too short", chunked(b"5\r\nhell\r\n0\r\n\r\n" + SMUGGLED)),
    refused("no line break behind data", chunked(b"5\r\nhello0\r\n\r\n" + SMUGGLED)),
    refused("NUL in an extension", chunked(b"5;a=\0\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    refused("bare LF in an extension", chunked(b"5;a\nb\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    refused("bare CR in an extension", chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    refused("a long extension", chunked(b"5;" + b"a" * 2000 + b"\r\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    refused("much extension in sum", chunked((b"1;" + b"a" * 500 + b"\r\nx\r\n") * 40 + b"0\r\n\r\n" + SMUGGLED)),
    refused("a trailer without colon", chunked(b"0\r\nX\r\n\r\n" + SMUGGLED)),
    refused("a folded trailer", chunked(b"0\r\nX: a\r\n b\r\n\r\n" + SMUGGLED)),
    refused("a trailer with bare LF", chunked(b"0\r\nX: a\nY: b\r\n\r\n" + SMUGGLED)),
    refused("space before a trailer's colon", chunked(b"0\r\nX : a\r\n\r\n" + SMUGGLED)),
    refused("long trailers", chunked(b"0\r\nX: " + b"y" * 9000 + b"\r\n\r\n" + SMUGGLED)),
    refused("many trailers", chunked(b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n" + SMUGGLED)),
]  # fmt: skip

PIPELINE = [  # RFC 9112 §9.3.2
    Vector("two at once", get(b"/open/1") + get(b"/open/2"), 200, True,
           (("GET", "/open/1", b""), ("GET", "/open/2", b"")), 2),
    Vector("a body between", post(b"Content-Length: 2\r\n", b"ab") + get(b"/open/2"), 200, True,
           (("POST", "/open/x", b"ab"), ("GET", "/open/2", b"")), 2),
    Vector("chunks between", chunked(b"2\r\nab\r\n0\r\nX: y\r\n\r\n") + get(b"/open/2"), 200, True,
           (("POST", "/open/x", b"ab"), ("GET", "/open/2", b"")), 2),
    Vector("a blank line between", get(b"/open/1") + b"\r\n" + get(b"/open/2"), 200, True,
           (("GET", "/open/1", b""), ("GET", "/open/2", b"")), 2),
    Vector("nothing behind close", get(fields=H + b"Connection: close\r\n") + SMUGGLED, 200, False,
           (("GET", "/open/x", b""),)),
    Vector("nothing behind HTTP/1.0", get(version=b"1.0") + SMUGGLED, 200, False, (("GET", "/open/x", b""),)),
    Vector("a bad one behind a good one", get() + get(fields=b"") + SMUGGLED, 200, False, (("GET", "/open/x", b""),)),
    Vector("a body longer than it says is a request, and no good one",
           post(b"Content-Length: 2\r\n", b"abcd\r\n\r\n" + SMUGGLED), 200, False, (("POST", "/open/x", b"ab"),)),
    Vector("a refused one takes all behind it along", get(b"/open/x HTTP/1.1 ") + SMUGGLED * 3, 400, False),
    Vector("a route's refusal does not", get(b"/keyed/x") + get(b"/open/2"), 401, True,
           (("GET", "/open/2", b""),), 2),
]  # fmt: skip

SECTIONS = {
    "request line": REQUEST_LINE, "target": TARGET, "host": HOST, "fields": FIELDS, "connection": CONNECTION,
    "length": LENGTH, "coding": CODING, "chunks": CHUNKS, "pipeline": PIPELINE,
}  # fmt: skip
