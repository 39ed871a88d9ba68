"""The functions that Kubernetes adds, as upstream's tests of each library judge them."""

from __future__ import annotations

import pytest

from havre.lang.cel.expression import CelError
from havre.lang.cel.rules import compile_rule
from havre.lang.schema import Schema


def evaluate(text: str) -> bool:
    return compile_rule(text, Schema()).evaluate({})


@pytest.mark.parametrize(
    "text",
    [
        "quantity('1.5Gi').isGreaterThan(quantity('1G'))",
        "quantity('200M').compareTo(quantity('0.2G')) == 0",
        "quantity('50k').add(quantity('20')).asInteger() == 50020",
        "quantity('50k').sub(20).asInteger() == 49980",
        "quantity('1000m') == quantity('1')",
        "quantity('50.5k').isInteger() && !quantity('1m').isInteger()",
        "quantity('-1').sign() == -1",
        "isQuantity('1.3Gi') && !isQuantity('1.3GiB')",
        "ip('10.0.0.1').family() == 4 && ip('::1').isLoopback()",
        "isIP('::1') && !isIP('10.0.0.01') && !isIP('::ffff:1.2.3.4') && !isIP('fe80::1%en0')",
        "ip.isCanonical('2001:db8::abcd') && !ip.isCanonical('2001:DB8::ABCD')",
        "ip('224.0.0.1').isLinkLocalMulticast() && ip('10.0.0.1').isGlobalUnicast()",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsIP(ip('11.1.2.3'))",
        "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && !cidr('10.0.0.0/8').containsCIDR(cidr('::/0'))",
        "cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && cidr('10.1.2.3/8').ip() == ip('10.1.2.3')",
        "isCIDR('::/0') && !isCIDR('1.2.3.4/33') && cidr('10.0.0.0/8').prefixLength() == 8",
        "url('https://u@ex.com:80/a%20b?x=1&x=2').getHost() == 'ex.com:80'",
        "url('https://[::1]:80/').getHostname() == '::1' && url('https://[::1]:80/').getPort() == '80'",
        "url('https://ex.com/a%20b?x=1&x=2').getQuery()['x'] == ['1', '2']",
        "url('/a%20b').getEscapedPath() == '/a%20b' && url('/a').getScheme() == ''",
        "isURL('https://a') && !isURL('a b')",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.0.0-a.1').isLessThan(semver('1.0.0'))",
        "semver('v01.1', true).major() == 1 && !isSemver('v1.0') && isSemver('1.0.0+b')",
        "[1, 3, 2].max() == 3 && ['a', 'b'].min() == 'a' && ![2, 1].isSorted()",
        "[1, 2].sum() == 3 && [0.5, 1.0].sum() == 1.5 && [duration('1h'), duration('2h')].sum() == duration('3h')",
        "[1, 2, 2].distinct() == [1, 2] && [[1], [2]].flatten() == [1, 2] && [3, 1].sort() == [1, 3]",
        "[1, 2, 3].slice(0, 2) == [1, 2] && lists.range(3) == [0, 1, 2]",
        "'abc 123'.find('[0-9]+') == '123' && '1 2 3'.findAll('[0-9]', 2) == ['1', '2']",
        "sets.contains(['a', 'b'], ['a']) && 'a,b'.split(',') == ['a', 'b'] && math.greatest(1, 2) == 2",
        "optional.of(1).hasValue() && {'a': 1}[?'b'].orValue(2) == 2",
    ],
)
def test_function_gives_what_upstreams_gives(text: str) -> None:
    assert evaluate(text) is True


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("quantity('x').sign() == 1", "quantities must match the regular expression"),
        ("quantity('1m').asInteger() == 1", "cannot convert value to integer"),
        ("semver('1.0.0').sign() == 1", "no such overload"),
        ("ip('x') == ip('x')", "parse error"),
        ("cidr('1.2.3.4') == cidr('1.2.3.4/8')", "parse error"),
        ("url('x y').getHost() == ''", "invalid URI"),
        ("[].max() == 1", "max called on empty list"),
        ("[1].slice(0, 2) == [1]", "cannot slice"),
        ("lists.range(100000000).size() == 1", "is not between"),
        ("[9223372036854775807, 1].sum() == 0", "integer overflow"),
        ("'a'.find('(') == ''", "Illegal regex"),
    ],
)
def test_function_fails_with_a_reason(text: str, words: str) -> None:
    with pytest.raises(CelError, match=words.replace("(", r"\(")):
        evaluate(text)
