# Mojolicious.
use strict;
use warnings;
use Encode qw(decode_utf8 encode_utf8);
use Mojo::IOLoop;
use Mojo::IOLoop::Stream;
use Mojo::UserAgent;

$| = 1;
my ($url, $mode) = @ARGV;
my $agent = Mojo::UserAgent->new(max_response_size => 0);
my $offer = $mode eq 'deflate' ? {'Sec-WebSocket-Extensions' => 'permessage-deflate'} : {};

sub say_line { print encode_utf8(join(' ', @_) . "\n") }

$agent->websocket($url => $offer => sub {
    my (undef, $socket) = @_;
    return say_line('error', 'no socket') unless $socket->is_websocket;
    $socket->max_websocket_size(2**21);
    say_line('open');
    $socket->on(message => sub { say_line('text', $_[1]) });
    $socket->on(finish => sub { say_line('close', $_[1], $_[2] // '') });
    my $orders = Mojo::IOLoop::Stream->new(\*STDIN)->timeout(0);
    my $waiting = '';
    $orders->on(read => sub {
        $waiting .= $_[1];
        while ($waiting =~ s/^([^\n]*)\n//) {
            my $line = decode_utf8($1);
            if ($line =~ s/^text //) { $socket->send($line) }
            else { $socket->finish(1000, 'bye') }
        }
    });
    $orders->on(close => sub { Mojo::IOLoop->stop });
    Mojo::IOLoop->stream($orders);
});
Mojo::IOLoop->start;
