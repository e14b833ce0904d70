"""What runs inside Redis, each in one piece and by Redis's own clock (milliseconds).

Keys of one that is limited, all with the same prefix:

    slots     sorted set: permit → when it frees itself unless renewed
    rate      the time at which the next call would be due, were all calls evenly spread (GCRA)
    breaker   hash: failures in a row, since when, open until, the present probe until
    waiting   sorted set: who was refused, most urgent and oldest first
    seen      sorted set: the same → when it was last refused
"""

NOW = "local t = redis.call('TIME') local now = t[1] * 1000 + t[2] / 1000 "

ENTER = (
    NOW
    + """
local slots, rate, breaker, waiting, seen = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local permit, lease, most, interval, tolerance = ARGV[1], ARGV[2] + 0, ARGV[3] + 0, ARGV[4] + 0, ARGV[5] + 0
local threshold, waiter, order, forget = ARGV[6] + 0, ARGV[7], ARGV[8] + 0, ARGV[9] + 0

local function refuse(why, least, failures, since)
    redis.call('ZADD', waiting, 'NX', order + now, waiter)
    redis.call('ZADD', seen, now, waiter)
    for _, old in ipairs(redis.call('ZRANGEBYSCORE', seen, '-inf', now - forget, 'LIMIT', 0, 100)) do
        redis.call('ZREM', seen, old)
        redis.call('ZREM', waiting, old)
    end
    redis.call('PEXPIRE', waiting, 2 * forget)
    redis.call('PEXPIRE', seen, 2 * forget)
    return {why, tostring(least), redis.call('ZCARD', seen), tostring(failures), tostring(since)}
end

local probe = false
if threshold > 0 then
    local state = redis.call('HMGET', breaker, 'open_until', 'probe_until', 'failures', 'since')
    if state[1] then
        local failures, since = state[3] or 0, now - (state[4] or now)
        if now < state[1] + 0 then return refuse('open', state[1] - now, failures, since) end
        if state[2] and now < state[2] + 0 then return refuse('open', 1000, failures, since) end
        probe = true
    end
end
if most > 0 then
    redis.call('ZREMRANGEBYSCORE', slots, '-inf', now)
    if redis.call('ZCARD', slots) >= most then return refuse('full', 0, 0, 0) end
end
if interval > 0 then
    local due = math.max(now, tonumber(redis.call('GET', rate) or now))
    if due - now > tolerance then return refuse('fast', due - now - tolerance, 0, 0) end
    redis.call('SET', rate, string.format('%.3f', due + interval), 'PX', math.ceil(due + interval - now) + 1000)
end
redis.call('ZADD', slots, now + lease, permit)
redis.call('PEXPIRE', slots, 2 * lease)
if probe then redis.call('HSET', breaker, 'probe_until', now + lease, 'probe', permit) end
redis.call('ZREM', waiting, waiter)
redis.call('ZREM', seen, waiter)
return {'in', '0', 0, '0', '0'}
"""
)
"""Ask for a permit. Returns why or ``in``; for a refusal: milliseconds to wait at least, how many wait, failures of the
agent in a row and for how many milliseconds."""

LEAVE = (
    NOW
    + """
local slots, breaker, waiting, seen = KEYS[1], KEYS[3], KEYS[4], KEYS[5]
local permit, most, verdict, threshold, pause = ARGV[1], ARGV[2] + 0, ARGV[3], ARGV[4] + 0, ARGV[5] + 0

redis.call('ZREM', slots, permit)
local opened = 0
if threshold > 0 then
    if verdict == 'well' then
        redis.call('DEL', breaker)
    elseif verdict == 'ill' then
        local failures = redis.call('HINCRBY', breaker, 'failures', 1)
        redis.call('HSETNX', breaker, 'since', now)
        redis.call('PEXPIRE', breaker, 86400000)
        if failures >= threshold then
            redis.call('HSET', breaker, 'open_until', now + pause)
            redis.call('HDEL', breaker, 'probe_until', 'probe')
            opened = failures
        end
    elseif redis.call('HGET', breaker, 'probe') == permit then
        redis.call('HDEL', breaker, 'probe_until', 'probe')
    end
end
local answer = {opened}
if most > 0 and redis.call('HEXISTS', breaker, 'open_until') == 0 then
    redis.call('ZREMRANGEBYSCORE', slots, '-inf', now)
    local free = most - redis.call('ZCARD', slots)
    if free > 0 then
        for number, item in ipairs(redis.call('ZPOPMIN', waiting, math.min(free, 20))) do
            if number % 2 == 1 then
                redis.call('ZREM', seen, item)
                table.insert(answer, item)
            end
        end
    end
end
return answer
"""
)
"""Give a permit back and say how the call went: ``well``, ``ill`` or nothing. Returns failures in a row if that opened
the breaker (else 0), then those who may try again."""

RENEW = (
    NOW
    + """
local lease = ARGV[1] + 0
for number = 2, #ARGV do redis.call('ZADD', KEYS[1], now + lease, ARGV[number]) end
redis.call('PEXPIRE', KEYS[1], 2 * lease)
return 0
"""
)
"""Prolong permits; also those that Redis has forgotten."""

LOOK = (
    NOW
    + """
local slots, breaker, seen = KEYS[1], KEYS[3], KEYS[5]
local state = redis.call('HMGET', breaker, 'open_until', 'failures')
local open_for = ''
if state[1] then open_for = tostring(math.max(0, state[1] - now)) end
return {redis.call('ZCOUNT', slots, now, '+inf'), redis.call('ZCARD', seen), tostring(state[2] or 0), open_for}
"""
)
"""In flight, waiting, failures in a row, and milliseconds until an open breaker lets one try (empty: it is closed)."""
