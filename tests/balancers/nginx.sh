#!/bin/bash
# nginx with the example's configuration: it proxies to the model server itself, and msd does the waiting.
set -euo pipefail
. tests/balancers/start.sh
needs nginx nginx-light
needs curl curl

# The example but for its addresses.
sed -e "s|server 127\.0\.0\.1:8081|server unix:$directory/model.sock|; s|server 127\.0\.0\.1:8080|server unix:$directory/one.http|" \
    -e "s|listen 8000|listen unix:$directory/front.http|" systemd/examples/nginx.conf >"$directory/example.conf"
check 'the addresses are those of the test' eval '! grep -v "^ *#" "$directory/example.conf" | grep -E "[0-9]+\.[0-9]+\.|listen [0-9]"'
cat >"$directory/nginx.conf" <<CONF
$([ "$(id -u)" != 0 ] || echo 'user root;')
daemon off;
# One process, which nobody leaves behind.
master_process off;
pid $directory/pid;
error_log stderr;
events { }
http {
    access_log off;
    client_body_temp_path $directory/body;
    proxy_temp_path $directory/proxy;
    fastcgi_temp_path $directory/fastcgi;
    uwsgi_temp_path $directory/uwsgi;
    scgi_temp_path $directory/scgi;
    include $directory/example.conf;
}
CONF
check 'nginx has nothing against it' nginx -t -q -c "$directory/nginx.conf"
start nginx nginx -c "$directory/nginx.conf"
completion() {
    ask front /v1/completions --json '{"prompt":"hello"}' -w ' %{http_code}'
}

# The model server is one that msd starts.
start_msd one --upstream "unix:$directory/model.sock" -- "$build/tests/upstream/server" --socket "$directory/model.sock" --load 1s
check 'the model loads' equal "$(code one /-/ready)" 503
start waits completion
# Who only waits for the model is no request of msd's: seen is the connection beside that of the one who looks.
check 'a request waits at msd' eventually field_is one connections 2
check 'unanswered' runs waits
ended waits || true
check 'and is answered by the model server' grep -q 'echo hello.* 200$' "$directory/waits.log"
check 'past msd' field_is one completed 0
check 'one that comes later goes straight on' eval '[[ $(completion) == *"echo hello"*\ 200 ]]'
check 'the paths of msd are not for clients' equal "$(code front /-/wait)" 404
stop one TERM
check 'msd ends' ended one
check 'without msd nobody waits for ever' equal "$(code front /v1/completions --json '{}')" 502

start_msd one --load-time 0 --load-failure 'no such weights' --on-load-failure stay
eventually equal "$(code one /-/ready)" 503
check 'who asks then hears why' eval 'answer=$(completion); [[ $answer == *"no such weights"*\ 503 ]] || { echo "$answer"; false; }'
finish
