import io.netty.bootstrap.Bootstrap;
import io.netty.channel.Channel;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.ChannelPipeline;
import io.netty.channel.SimpleChannelInboundHandler;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.SocketChannel;
import io.netty.channel.socket.nio.NioSocketChannel;
import io.netty.handler.codec.http.DefaultHttpHeaders;
import io.netty.handler.codec.http.HttpClientCodec;
import io.netty.handler.codec.http.HttpObjectAggregator;
import io.netty.handler.codec.http.websocketx.CloseWebSocketFrame;
import io.netty.handler.codec.http.websocketx.TextWebSocketFrame;
import io.netty.handler.codec.http.websocketx.WebSocketClientHandshaker;
import io.netty.handler.codec.http.websocketx.WebSocketClientHandshakerFactory;
import io.netty.handler.codec.http.websocketx.WebSocketClientProtocolHandler;
import io.netty.handler.codec.http.websocketx.WebSocketFrame;
import io.netty.handler.codec.http.websocketx.WebSocketFrameAggregator;
import io.netty.handler.codec.http.websocketx.WebSocketVersion;
import io.netty.handler.codec.http.websocketx.extensions.compression.WebSocketClientCompressionHandler;
import java.net.URI;

/** Netty, with its own handler for compression. */
final class WithNetty {
    private static final int LONGEST = 1 << 21;

    public static void main(String[] args) throws Exception {
        URI address = new URI(args[0]);
        boolean deflate = args[1].equals("deflate");
        WebSocketClientHandshaker handshaker = WebSocketClientHandshakerFactory.newHandshaker(
                address, WebSocketVersion.V13, null, true, new DefaultHttpHeaders(), LONGEST);
        Bootstrap bootstrap = new Bootstrap().group(new NioEventLoopGroup(1)).channel(NioSocketChannel.class).handler(new ChannelInitializer<SocketChannel>() {
            @Override protected void initChannel(SocketChannel channel) {
                ChannelPipeline pipeline = channel.pipeline().addLast(new HttpClientCodec(), new HttpObjectAggregator(8192));
                if (deflate) {
                    pipeline.addLast(WebSocketClientCompressionHandler.INSTANCE);
                }
                pipeline.addLast(new WebSocketClientProtocolHandler(handshaker, false), new WebSocketFrameAggregator(LONGEST), new Handler());
            }
        });
        Channel channel = bootstrap.connect(address.getHost(), address.getPort()).sync().channel();
        Lines.obey(
                text -> channel.writeAndFlush(new TextWebSocketFrame(text)).addListener(sent -> {
                    if (!sent.isSuccess()) {
                        Lines.say("error", sent.cause());
                    }
                }),
                () -> channel.writeAndFlush(new CloseWebSocketFrame(1000, "bye")));
    }

    private static final class Handler extends SimpleChannelInboundHandler<WebSocketFrame> {
        @Override public void userEventTriggered(ChannelHandlerContext context, Object event) {
            if (event == WebSocketClientProtocolHandler.ClientHandshakeStateEvent.HANDSHAKE_COMPLETE) {
                Lines.say("open");
            }
        }

        @Override protected void channelRead0(ChannelHandlerContext context, WebSocketFrame frame) {
            if (frame instanceof TextWebSocketFrame) {
                Lines.say("text", ((TextWebSocketFrame) frame).text());
            } else if (frame instanceof CloseWebSocketFrame) {
                CloseWebSocketFrame close = (CloseWebSocketFrame) frame;
                Lines.say("close", close.statusCode(), close.reasonText());
                context.writeAndFlush(close.retain());
            }
        }

        @Override public void exceptionCaught(ChannelHandlerContext context, Throwable error) {
            Lines.say("error", error);
            context.close();
        }
    }
}
