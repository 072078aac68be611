import pytest

from remdm.data.shards import ShardName, parse_shard_name, shard_name


@pytest.mark.parametrize(
    "told",
    [
        ShardName(3, "c0", 17, 512),
        ShardName(999_999, "rank1", 999_999, 10**17),
        ShardName(0, "a-000001-5", 0, 0),
        ShardName(0, "e000001-c0-000002-7", 4, 9),
        ShardName(1, ".-_", 2, 3),
    ],
)
def test_a_name_tells_what_it_was_made_of(told):
    assert parse_shard_name(shard_name(*told)) == told


@pytest.mark.parametrize(
    "name",
    [
        "demonstrations.safetensors",
        "e000003-c0-000017-512",
        "e000003-c0-000017-512.safetensors.safetensors",
        "e3-c0-000017-512.safetensors",
        "e000003-c0-17-512.safetensors",
        "e000003--000017-512.safetensors",
        "e000003-c0-000017-0512.safetensors",
        "e000003-c0-000017-\u0665.safetensors",
        "e000003-c0-000017-9999999999999999999.safetensors",
        "e000003-a/b-000017-512.safetensors",
        "e000003-c0-000017-512.safetensors\n",
        "../e000003-c0-000017-512.safetensors",
        "",
    ],
)
def test_a_name_of_another_form_is_refused(name):
    with pytest.raises(ValueError, match="must be like e000003-c0-000017-512"):
        parse_shard_name(name)
